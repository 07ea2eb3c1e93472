"""Real data as tensors: data sets to train on, families of tasks to meta-learn on."""

from raymeta.data.classifiers import LinearClassifiers
from raymeta.data.digits import digits
from raymeta.data.episodes import Episode, Examples, SplitName
from raymeta.data.families import (
    FAMILIES,
    FOLDERS,
    Family,
    check_family,
    family,
    share,
)
from raymeta.data.few_shot import FewShot, LabelledImages, few_shot_digits
from raymeta.data.images import DigitFunctions, PhotographFunctions
from raymeta.data.omniglot import omniglot, read_folders
from raymeta.data.prefetch import prefetch
from raymeta.data.real_images import DigitBatches
from raymeta.data.sinusoid import Sinusoid
from raymeta.data.split import Split, split

__all__ = [
    "FAMILIES",
    "FOLDERS",
    "DigitBatches",
    "DigitFunctions",
    "Episode",
    "Examples",
    "Family",
    "FewShot",
    "LabelledImages",
    "LinearClassifiers",
    "PhotographFunctions",
    "Sinusoid",
    "Split",
    "SplitName",
    "check_family",
    "digits",
    "family",
    "few_shot_digits",
    "omniglot",
    "prefetch",
    "read_folders",
    "share",
    "split",
]
