"""Runs that are disturbed: they take seconds, of which they compute few."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from raymeta.tasks import Quadratic

NAME = "x"


@dataclass(frozen=True, kw_only=True)
class Slow(Quadratic):
    """A quadratic whose steps take a while.

    Attributes:
        step_s: seconds of a step.
    """

    horizon: int = 8
    name: str = "slow"
    step_s: float = 0.01

    def sample(self, seed: int) -> Any:
        """The problem, whose steps wait."""
        problem = super().sample(seed)
        step, wait = problem.step, self.step_s

        def slow(*args: Any) -> Any:
            time.sleep(wait)
            return step(*args)

        return replace(problem, step=slow)


def _compared(storage: str, **more: Any) -> pd.DataFrame:
    from raymeta import compare

    methods = ["random", "tpe", "short_term", "long_term"]
    task = Slow(**more)
    return compare(task, methods, budget=160, seeds=1, name=NAME, storage=storage)


def _compared_here(storage: str) -> pd.DataFrame:
    from raymeta.testing import in_process

    with in_process.comparisons():
        return _compared(storage)


def _optimized(storage: str) -> pd.DataFrame:
    from raymeta import optimize

    found = optimize(Slow(), "reverse", budget=1200, name=NAME, storage=storage)
    if found.interrupted:  # as the command ends
        raise KeyboardInterrupt
    return found.frame


def _trained(storage: str, workers: int | None = None) -> pd.DataFrame:
    from raymeta.train import recipes, train

    config = recipes.recipe(
        "maml",
        "sinusoid",
        outer_steps=60,
        tasks_per_step=2,
        val_tasks=2,
        test_tasks=2,
        test_steps=1,
        checkpoint_every=2,
    )
    return train(config, name=NAME, storage=storage, workers=workers).frame


def _bytes(pattern: str) -> Callable[[Path], int]:
    def size(root: Path) -> int:
        with suppress(OSError):  # a file was replaced meanwhile, or its disk is away
            return sum(f.stat().st_size for f in root.rglob(pattern))
        return 0

    return size


def _step(root: Path) -> int:
    """The last outer step that has a checkpoint."""
    with suppress(OSError):
        found = (re.search(r"step-(\d+)\.pt$", f.name) for f in root.rglob("step-*.pt"))
        return max((int(step[1]) for step in found if step), default=0)
    return 0


class Kind(NamedTuple):
    """A kind of run.

    Attributes:
        run: takes the storage, and returns the frame.
        progress: under a folder, how far it has come; grows while it computes.
        works: what Ray calls its workers; None for a run in one process.
    """

    run: Callable[[str], pd.DataFrame]
    progress: Callable[[Path], int]
    works: str | None = None


KINDS = {
    "compare": Kind(_compared_here, _bytes("journal.jsonl")),
    "optimize": Kind(_optimized, _bytes("*.log")),
    "train": Kind(_trained, _step),
    "compare on Ray": Kind(
        lambda storage: _compared(storage, step_s=0.04),
        _bytes("journal.jsonl"),
        "ImplicitFunc",
    ),
    "train on Ray": Kind(
        lambda storage: _trained(storage, workers=2), _step, "TrainWorker"
    ),
}
