"""Trained meta-modules from the folders of runs."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from raymeta.meta import Learner, MetaModule
from raymeta.train import own
from raymeta.train.checkpoints import BEST, Checkpoint, read, require_theta
from raymeta.train.preflight import as_in_run
from raymeta.train.recipes import ALGORITHMS, recipe

RECORD = "training.json"


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
    file, seed = _file(Path(path), seed)
    checkpoint = read(file)
    dtype = {x.dtype for x in checkpoint["theta"].values()}
    with as_in_run("float64" if dtype == {torch.float64} else "float32", seed):
        module = MetaModule(_learner(learner, file, checkpoint, seed))
    require_theta(file, checkpoint["theta"], module.theta())
    module.load_state_dict(checkpoint["theta"])
    return module.eval()


def _file(path: Path, seed: int | None) -> tuple[Path, int]:
    """The checkpoint, and its seed."""
    if path.is_file() and path.suffix == ".pt":
        own = read(path)["seed"]
        if seed not in (None, own):
            raise ValueError(
                f"{path} is a checkpoint of seed {own}, but got seed={seed}: leave "
                "seed out"
            )
        return path, own
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
    return files[seed], seed


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
    record = file.parents[1] / RECORD
    made = json.loads(record.read_text()).get("recipe") if record.is_file() else None
    if made is None:
        raise ValueError(
            f"{file} is of a learner that no recipe makes, or of a run whose {RECORD} "
            f"is not beside it or older ({checkpoint['algorithm']} on "
            f"{checkpoint['family']}): give it, load(path, learner)"
        )
    return recipe(**made).learner(seed)
