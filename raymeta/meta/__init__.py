"""Meta-learning on the one engine, one algorithm a file."""

from typing import TYPE_CHECKING, Any

from raymeta.data.episodes import Episode, Examples
from raymeta.meta.anil import anil
from raymeta.meta.boil import boil
from raymeta.meta.cavia import cavia
from raymeta.meta.distillation import RandomWeights, distillation
from raymeta.meta.fomaml import fomaml
from raymeta.meta.functa import functa
from raymeta.meta.imaml import imaml
from raymeta.meta.learned_dataset import learned_dataset
from raymeta.meta.learner import Learner, first_order
from raymeta.meta.lslr import lslr
from raymeta.meta.maml import maml
from raymeta.meta.meta_sgd import meta_sgd
from raymeta.meta.module import MetaModule, MetaOutput
from raymeta.meta.protonet import protonet
from raymeta.meta.reptile import reptile
from raymeta.meta.siren import Siren

if TYPE_CHECKING:
    from raymeta.train.saved import load

__all__ = [
    "Episode",
    "Examples",
    "Learner",
    "MetaModule",
    "MetaOutput",
    "RandomWeights",
    "Siren",
    "anil",
    "boil",
    "cavia",
    "distillation",
    "first_order",
    "fomaml",
    "functa",
    "imaml",
    "learned_dataset",
    "load",
    "lslr",
    "maml",
    "meta_sgd",
    "protonet",
    "reptile",
]


def __getattr__(name: str) -> Any:
    """What reads folders of runs, which the mathematics does not load."""
    if name != "load":
        raise AttributeError(f"module 'raymeta.meta' has no attribute {name!r}")
    from raymeta.train.saved import load

    return load
