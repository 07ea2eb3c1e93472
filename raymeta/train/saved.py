"""Trained meta-modules from the folders of runs."""

from collections.abc import Callable
from pathlib import Path

import torch

from raymeta.meta import Learner, MetaModule
from raymeta.results.records import read_record
from raymeta.train import own
from raymeta.train.checkpoints import BEST, Checkpoint, read, require_theta
from raymeta.train.preflight import as_in_run
from raymeta.train.recipes import ALGORITHMS, recipe


def load(
    path: str | Path,
    learner: Learner | Callable[[int], Learner] | str | None = None,
    *,
    seed: int | None = None,
) -> MetaModule:
    """The meta-module that a run of `raymeta.train` ended with, in evaluation mode.

    Args:
        path: the run's folder, whose best θ on validation tasks it is; or one of its
            checkpoints, `seed-0/best.pt` or `seed-0/step-00000100.pt`.
        learner: what the run learnt: a learner, a function of the seed, or
            `path.py:Name`. Not needed of a recipe, as of `raymeta train` with
            algorithms that ship.
        seed: which of the run's trainings; the lowest by default.

    Raises:
        ValueError: no run or checkpoint is there; the run has no such seed; the learner
            is not a recipe's and not given; or its θ is another.
    """
    file, checkpoint, seed = _found(Path(path), seed)
    dtype = {x.dtype for x in checkpoint["theta"].values()}
    with as_in_run("float64" if dtype == {torch.float64} else "float32", seed):
        module = MetaModule(_learner(learner, file, checkpoint, seed))
    require_theta(file, checkpoint["theta"], module.theta())
    module.load_state_dict(checkpoint["theta"])
    return module.eval()


def _found(path: Path, seed: int | None) -> tuple[Path, Checkpoint, int]:
    """The file of a checkpoint, what is in it, and its seed."""
    if path.is_file() and path.suffix == ".pt":
        checkpoint = read(path)
        if seed not in (None, checkpoint["seed"]):
            raise ValueError(
                f"{path} is a checkpoint of seed {checkpoint['seed']}, but got "
                f"seed={seed}: leave seed out"
            )
        return path, checkpoint, checkpoint["seed"]
    files = {
        int(file.parent.name.removeprefix("seed-")): file
        for file in path.glob(f"seed-*/{BEST}")
    }
    if not files:
        raise ValueError(
            f"{path} has no checkpoint of a training, seed-*/{BEST}: give the folder "
            "of a run of raymeta.train, results/<name>, or one of its checkpoints"
        )
    seed = min(files) if seed is None else seed
    if seed not in files:
        raise ValueError(
            f"{path} has the seeds {sorted(files)}, but got seed={seed}: choose one of "
            "them"
        )
    return files[seed], read(files[seed]), seed


def _learner(
    given: Learner | Callable[[int], Learner] | str | None,
    file: Path,
    checkpoint: Checkpoint,
    seed: int,
) -> Learner:
    if isinstance(given, str):
        given = own.learner(given, ALGORITHMS)
    if isinstance(given, Learner):
        return given
    if given is not None:
        return given(seed)
    made = read_record(file.absolute().parents[1], "training").get("recipe")
    if made is None:
        raise ValueError(
            f"{file} is of a learner that no recipe makes, or of a run whose "
            f"training.json is not beside it or older ({checkpoint['algorithm']} on "
            f"{checkpoint['family']}): give it, load(path, learner)"
        )
    return recipe(**made).learner(seed)
