"""Sums of many numbers of which few change at a time."""

import math


class Sums:
    """A mapping from numbers of trials to floats that knows its exact sum.

    What is added is kept as a few floats whose sum is that of all without rounding
    (Shewchuk 1997, figure 6), so the total is `math.fsum` of the values, to the bit,
    however many there are, and costs the same after a thousand trials as after one.
    """

    def __init__(self) -> None:
        self._values: dict[int, float] = {}
        self._parts: list[float] = []
        self._odd: dict[int, float] = {}  # infinite or NaN: nothing takes them back

    @property
    def total(self) -> float:
        """The sum of all values."""
        return math.fsum((*self._parts, *self._odd.values()))

    def get(self, number: int, default: float) -> float:
        """The value of a trial, or the default where it has none."""
        return self._values.get(number, default)

    def put(self, number: int, value: float) -> None:
        """Set the value of a trial."""
        self.drop(number)
        self._values[number] = value
        if math.isfinite(value):
            self._add(value)
        else:
            self._odd[number] = value

    def drop(self, number: int) -> None:
        """Forget the value of a trial, if it has one."""
        if number in self._odd:
            del self._values[number], self._odd[number]
        elif number in self._values:
            self._add(-self._values.pop(number))

    def settle(self, number: int) -> None:
        """Forget a trial that will not change any more, but not its value."""
        if number not in self._odd:
            self._values.pop(number, None)

    def _add(self, x: float) -> None:
        kept = []
        for y in self._parts:
            high, low = (x, y) if abs(x) >= abs(y) else (y, x)
            x = high + low
            if error := low - (x - high):
                kept.append(error)
        self._parts = [*kept, x] if x else kept
