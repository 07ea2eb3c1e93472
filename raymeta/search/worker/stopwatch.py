"""Stopwatch of a trial: what it computes counts, what it waits for does not."""

import time
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """Seconds spent in training and evaluation, not in waiting for the driver."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self._before + running

    def over(self, items: Iterator[T]) -> Iterator[T]:
        """The items; producing them is timed."""
        while True:
            self.resume()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.freeze(self.seconds)
            yield item

    def resume(self) -> None:
        """Run on."""
        if self._since is None:
            self._since = time.perf_counter()

    def freeze(self, seconds: float) -> None:
        """Show these seconds until it runs on."""
        self._before, self._since = seconds, None
