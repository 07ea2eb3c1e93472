"""Global random streams as the property of one study."""

import random
import warnings
from types import TracebackType
from typing import Any

import numpy as np


class IsolatedGlobalRNG:
    """Python's and NumPy's global random streams, exchanged for a study's own.

    Some searchers and schedulers draw from the global streams. Inside this context
    those are the study's, so it draws the same however many others run beside it, and
    again when its journal is replayed; outside they are the caller's. What searchers
    warn of is for those who call them by hand, and stays unsaid.

    Args:
        seed: seeds the study's streams.
    """

    def __init__(self, seed: int) -> None:
        self._mine: tuple[Any, Any] = (
            random.Random(seed).getstate(),
            np.random.RandomState(seed).get_state(),
        )
        self._others: tuple[Any, Any] | None = None
        self._silence: warnings.catch_warnings | None = None

    def __enter__(self) -> None:
        self._silence = warnings.catch_warnings()
        self._silence.__enter__()
        warnings.simplefilter("ignore")
        self._others = _states()
        _put(self._mine)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._mine = _states()
        assert self._others is not None
        assert self._silence is not None
        _put(self._others)
        self._silence.__exit__(kind, error, trace)


def _states() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state()  # noqa: NPY002, theirs is global


def _put(states: tuple[Any, Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
