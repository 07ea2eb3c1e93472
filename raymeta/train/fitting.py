"""Fitting: trainers at work on threads, some at once, with Ctrl-C as a request."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from raymeta.train.scaling import POLL_S

if TYPE_CHECKING:
    from ray.train import Result
    from ray.train.torch import TorchTrainer


def fitted(
    trainer: "TorchTrainer",
    asked: Callable[[], bool],
    on_tick: Callable[[], None],
    end: Callable[[], None],
    patience: float = math.inf,
) -> "Result":
    """What a trainer's `fit` returns, or raises; see `fit_all`."""
    results: list[Result] = []

    def done(place: int, result: Callable[[], "Result"]) -> None:
        results.append(result())

    fit_all([trainer], 1, asked, on_tick, end, done, patience)
    return results[0]


def fit_all(
    trainers: Sequence["TorchTrainer"],
    at_once: int,
    asked: Callable[[], bool],
    on_tick: Callable[[], None],
    end: Callable[[], None],
    done: Callable[[int, Callable[[], "Result"]], None],
    patience: float = math.inf,
) -> None:
    """Fit trainers, the next one whenever one has ended.

    Args:
        trainers: each starts its own workers.
        at_once: number of them at work at once.
        asked: says whether all are to end.
        on_tick: is called several times a second.
        end: asks their workers to, once.
        done: takes the place of one that has ended, and what returns its result or
            raises its error.
        patience: seconds that workers get to end.

    Raises:
        KeyboardInterrupt: they have not ended by then, or Ctrl-C came again, or some
            had not begun.
    """
    waiting, working = deque(enumerate(trainers)), dict[int, _Background]()
    since = None
    while working or waiting:
        if since is None and asked():
            since = time.monotonic()
            end()
        while since is None and waiting and len(working) < at_once:
            place, trainer = waiting.popleft()
            working[place] = _Background(trainer.fit)
        late = since is not None and time.monotonic() - since > patience
        if late or not working:
            raise KeyboardInterrupt
        for place, fit in list(working.items()):
            if fit.ended(POLL_S / len(working)):
                on_tick()
                del working[place]
                done(place, fit.result)
        on_tick()


class _Background:
    """A function at work on a thread that does not outlive the program.

    `TorchTrainer.fit` in the main thread would take Ctrl-C for itself.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._error: BaseException | None = None
        self._result: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ended(self, timeout: float) -> bool:
        """Whether it ended within so many seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def result(self) -> Any:
        """What it returned; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error
