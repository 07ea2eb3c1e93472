"""Optimizations, followed in MLflow or W&B while they run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

from raymeta.errors import said, unknown_name
from raymeta.outer.following import following
from raymeta.outer.report import Report
from raymeta.outer.result import Result

TRACKERS = ("mlflow", "wandb")
#: Hyperparameters that are logged: of more values these many are, the first.
MOST = 100


class Tracker(Protocol):
    """A run in a tracking library."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers of a step."""

    def finish(self, values: Mapping[str, Any]) -> None:
        """Log what was found in the end."""

    def close(self, failed: bool) -> None:
        """End the run, unless it was there before."""


@contextmanager
def tracked(
    log: str | None, name: str, config: Mapping[str, Any]
) -> Iterator[Callable[[Result], None]]:
    """A run of a tracking library, which follows the optimization within.

    Where it cannot log, that is a warning, and the optimization goes on.

    Args:
        log: "mlflow" or "wandb"; None for neither.
        name: the run's.
        config: settings of the optimization.

    Yields:
        What takes the result.

    Raises:
        ValueError: there is no library of that name.
        ImportError: it is not installed.
    """
    if log is None:
        yield lambda result: None
        return
    if log not in TRACKERS:
        raise unknown_name("log", str(log), TRACKERS)
    tracker: Tracker = import_module(f"raymeta.integrations.{log}").Run(name, config)
    follower = _Follower(tracker, log)
    failed = True
    try:
        with following(follower.report):
            yield follower.finish
        failed = False
    finally:
        follower.guarded(tracker.close, failed)


class _Follower:
    def __init__(self, tracker: Tracker, log: str) -> None:
        self._tracker, self._log = tracker, log
        self._broken = False

    def report(self, report: Report, best: float) -> None:
        values = {
            "outer_loss": report.outer_loss,
            "best_outer_loss": best,
            "gradient_evals": report.gradient_evals,
            "inner_steps": report.inner_steps,
            **_numbers(report.hparams),
        }
        known = {k: float(v) for k, v in values.items() if math.isfinite(v)}
        self.guarded(self._tracker.log, known, report.outer_step)

    def finish(self, result: Result) -> None:
        point = result.frame.iloc[-1]
        found = {n.removeprefix("hp/"): point[n] for n in point.index if "hp/" in n}
        values = {f"final/{name}": v for name, v in _numbers(found).items()}
        values |= {f"final/{name}": v for name, v in result.metrics.items()}
        values["final/outer_loss"] = result.outer_loss
        self.guarded(self._tracker.finish, values)

    def guarded(self, call: Callable[..., None], *args: Any) -> None:
        if self._broken:
            return
        try:
            call(*args)
        except Exception as error:  # of a server, a disk, a network
            self._broken = True
            warnings.warn(
                f"{self._log} logs no more ({type(error).__name__}: {said(str(error))}"
                "): the optimization goes on without it",
                stacklevel=2,
            )


def _numbers(point: Mapping[str, Any]) -> dict[str, float]:
    """λ by names that trackers take: `hp/l2/3` of `l2[3]`."""
    found = {}
    for name, value in list(point.items())[:MOST]:
        if isinstance(value, int | float) and math.isfinite(value):
            plain = name.replace("[", "/").replace("]", "").replace(",", "/")
            found[f"hp/{plain}"] = float(value)
    return found
