"""Kills of descents: after how many evaluations, and what was said until then."""

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from raymeta import hypergrad
from raymeta.outer import report, vectorized
from raymeta.search.spec import Report


class Killed(BaseException):
    """A kill: nothing in the trial catches it."""


class Computed:
    """A count of what is really computed, and a kill at the first beyond `allowed`.

    Args:
        monkeypatch: puts counting functions in place, and takes them away.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.allowed = 0, math.inf
        self._inside = False  # of an estimate, which may ask for others
        for kind in vars(hypergrad).values():
            if inspect.isclass(kind) and hasattr(kind, "estimate"):
                monkeypatch.setattr(kind, "estimate", self._counted(kind.estimate))
        for module in (report, vectorized):
            monkeypatch.setattr(module, "advance", self._counted(module.advance))

    def _counted(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(compute)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return compute(*args, **kwargs)
            if self.count >= self.allowed:
                raise Killed
            self.count += 1
            self._inside = True
            try:
                return compute(*args, **kwargs)
            finally:
                self._inside = False

        return counted


def untimed(reports: Iterable[Report]) -> list[str]:
    """Everything that was reported, to the last bit, but the seconds."""
    return [repr(report._replace(wall_s=0.0)) for report in reports]
