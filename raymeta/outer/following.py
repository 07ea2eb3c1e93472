"""Reports as they come, for who follows an optimization beside its progress."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from raymeta.outer.report import Report

Follower = Callable[[Report, float], None]
_FOLLOWER: ContextVar[Follower | None] = ContextVar("follower", default=None)


@contextmanager
def following(follower: Follower) -> Iterator[None]:
    """While this is open, `follow` hands it each report and the best loss so far."""
    token = _FOLLOWER.set(follower)
    try:
        yield
    finally:
        _FOLLOWER.reset(token)


def follow(report: Report, best: float) -> None:
    """Hand a report on, if somebody follows."""
    follower = _FOLLOWER.get()
    if follower is not None:
        follower(report, best)
