"""Estimators by name, sized to a horizon: what the command line offers."""

from collections.abc import Callable

from raymeta.errors import unknown_name
from raymeta.hypergrad.base import Estimator
from raymeta.hypergrad.checkpointed import Checkpointed
from raymeta.hypergrad.combined import Combined
from raymeta.hypergrad.forward import Forward
from raymeta.hypergrad.implicit import Implicit
from raymeta.hypergrad.reverse import Reverse
from raymeta.hypergrad.reversible import Reversible
from raymeta.hypergrad.short_term import ShortTerm
from raymeta.hypergrad.smoothed import Smoothed
from raymeta.hypergrad.soba import SOBA
from raymeta.hypergrad.truncated import Truncated

#: What an estimate on the way looks at: validation examples for as much as its steps.
VAL_SHARE = 1.0


def look_ahead(horizon: int, count: int, *, adaptive: bool = False) -> ShortTerm:
    """Short-term estimates on the way: of a run so many, or a few more."""
    steps = max(1, horizon // count)
    return ShortTerm(steps, val_share=VAL_SHARE, adaptive=adaptive)


#: Name -> horizon T -> estimator.
ESTIMATORS: dict[str, Callable[[int], Estimator]] = {
    "short_term": lambda horizon: look_ahead(horizon, 40),
    "short_term_adaptive": lambda horizon: look_ahead(horizon, 40, adaptive=True),
    "reverse": Reverse,
    "truncated": lambda horizon: Truncated(horizon, window=max(1, horizon // 4)),
    "checkpointed": Checkpointed,
    "reversible": Reversible,
    "implicit": Implicit,
    "soba": lambda horizon: SOBA(max(1, horizon // 40)),
    "forward": Forward,
    "forward_online": lambda horizon: Forward(
        max(1, horizon // 20), val_share=VAL_SHARE
    ),
    "smoothed": lambda horizon: Smoothed(Reverse(horizon)),
    "combined": lambda horizon: Combined(
        (Truncated(horizon, window=max(1, horizon // 4)), Reverse(horizon))
    ),
}


def by_name(name: str, horizon: int) -> Estimator:
    """The estimator of this name for runs of `horizon` steps.

    Raises:
        ValueError: there is none; says which one may be meant.
    """
    if name not in ESTIMATORS:
        raise unknown_name("estimator", name, ESTIMATORS)
    return ESTIMATORS[name](horizon)
