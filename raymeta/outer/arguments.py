"""Checks of an optimization's arguments; an error is one line."""

import math
from numbers import Integral, Real
from typing import Any

from raymeta.errors import said, unknown_name
from raymeta.hypergrad import Estimator
from raymeta.hypergrad.base import require_estimator
from raymeta.hypergrad.registry import ESTIMATORS, by_name
from raymeta.outer.auto import AUTO, Auto
from raymeta.tasks import loading


def estimator_of(given: Any, horizon: int) -> Estimator | Auto:
    """An estimator, or the one of that name for runs of `horizon` steps, or "auto".

    A name may be `path.py:Name` or an entry point: of an estimator, or of what takes
    the horizon and makes one, such as a class.

    Raises:
        ValueError: it is none, or there is none of that name.
    """
    if isinstance(given, str):
        if given == AUTO:
            return Auto()
        own = loading.own(given, loading.ESTIMATOR)
        if own is not None:
            given = own(horizon) if callable(own) else own
        elif given not in ESTIMATORS:
            raise unknown_name("estimator", given, [AUTO, *ESTIMATORS])
        else:
            given = by_name(given, horizon)
    if isinstance(given, Auto):
        return given
    require_estimator(given, horizon)
    return given


def number_of(name: str, given: Any) -> float:
    """A number as a float.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(given, Real) or isinstance(given, bool):
        raise ValueError(f"{name} must be a number, but got {said(given)}")
    return float(given)


def require_seed(seed: Any) -> None:
    """Raise ValueError unless it is what a comparison takes as well."""
    integral = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not integral or not 0 <= int(seed) < 2**32:
        raise ValueError(
            f"seed must be an integer from 0 to 2**32 - 1, but got {said(seed)}"
        )


def require_hyper_lr(hyper_lr: Any) -> None:
    """Raise ValueError unless it is None, or the length of a step."""
    if hyper_lr is None:
        return
    length = number_of("hyper_lr", hyper_lr)
    if not 0 < length < math.inf:
        rule = "a finite hyper_lr" if length == math.inf else "hyper_lr > 0"
        raise ValueError(
            f"descend needs {rule}, but got {hyper_lr}: leave it out for the default"
        )


def require_progress(progress: Any) -> None:
    """Raise ValueError unless it says whether, or to whom, progress is shown."""
    if not isinstance(progress, bool | None) and not callable(progress):
        raise ValueError(
            "progress must be True, False, or what takes a report and the best outer "
            f"loss so far, but got {said(progress)}"
        )
