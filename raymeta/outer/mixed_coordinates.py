"""The search space with its choices as one flat vector."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from raymeta.outer.coordinates import Coordinates
from raymeta.space import Choice, Point, Space
from raymeta.types import Hparams, Tensors

#: What a choice's present option has in its place of x: two options are as far apart as
#: hyperparameters that differ by a factor of 17.
APART = 2.0


class MixedCoordinates:
    """λ of a space, options included ↔ x, a float64 vector.

    First stand the unconstrained coordinates of all continuous hyperparameters
    (`Coordinates`), then one place for each option of each choice that has several: 2
    for the option that λ has, 0 for the others. What the options do not use stands at
    its start, so that one λ has one x.

    Args:
        space: whose hyperparameters these are.
        device: where λ is needed; see `BilevelProblem.device`.

    Source: Garrido-Merchán & Hernández-Lobato 2020, "Dealing with categorical and
    integer-valued variables in Bayesian optimization with Gaussian processes".
    """

    def __init__(self, space: Space, device: torch.device | str = "cpu") -> None:
        self._space = space
        domains: dict[str, Any] = dict(space.continuous)
        continuous = Space(when={}, **domains)
        self._walk = Coordinates(continuous, device) if continuous else None
        none = torch.zeros(0, dtype=torch.float64)
        walk = none if self._walk is None else self._walk.start()
        self._count = len(walk)
        self._places: dict[str, slice] = {}
        code = []
        end = self._count
        for name, choice in self.choices.items():
            begin, end = end, end + len(choice.options)
            self._places[name] = slice(begin, end)
            code.append(_code(choice, choice.index(choice.initial)))
        self._start = torch.cat([walk, *code])
        self._names = [
            name
            for name, domain in space.continuous.items()
            for _ in range(torch.Size(domain.shape).numel())
        ]

    @cached_property
    def choices(self) -> dict[str, Choice]:
        """The choices of several options, each after those on which it depends."""
        return {k: c for k, c in self._space.in_order() if len(c.options) > 1}

    @cached_property
    def is_option(self) -> Tensor:
        """Which coordinates are those of options; bool (n,)."""
        return torch.arange(len(self._start)) >= self._count

    @property
    def dimensions(self) -> int:
        """How many scalars and choices there are."""
        return self._count + len(self._places)

    def start(self) -> Tensor:
        """X at the space's initial values."""
        return self._start.clone()

    def at(self, point: Mapping[str, Any]) -> Tensor:
        """X of a point, moved into the bounds; shape (n,)."""
        natural = self._space.hparams(point, dtype=torch.float64)
        x = self.start()
        if self._walk is not None:
            start = self._walk.hparams(x[: self._count])
            walked = {name: natural.get(name, value) for name, value in start.items()}
            x[: self._count] = self._walk.at(walked)
        for name, place in self._places.items():
            if name in natural:
                choice = self.choices[name]
                x[place] = _code(choice, choice.index(natural[name]))
        return self.project(x)

    def hparams(self, x: Tensor) -> Hparams:
        """What the options at x use, in natural values."""
        natural = {} if self._walk is None else self._walk.hparams(x[: self._count])
        return self._space.trim({**natural, **self._options(self._numbers(x))})

    def point(self, x: Tensor) -> Point:
        """λ at x as a point."""
        return self._space.point(self.hparams(x))

    def gradient(self, x: Tensor, grads: Tensors) -> Tensor:
        """dE/dx from dE/dλ; 0 for options, and for what they do not use."""
        found = torch.zeros_like(x)
        if self._walk is not None:
            walk = x[: self._count]
            zeros = {
                k: torch.zeros_like(v) for k, v in self._walk.hparams(walk).items()
            }
            found[: self._count] = self._walk.gradient(walk, zeros | grads)
        return found

    def project(self, x: Tensor) -> Tensor:
        """The nearest x within the bounds that is one of a λ; shape (n,)."""
        x = x.clone()
        if self._walk is not None:
            x[: self._count] = self._walk.project(x[: self._count])
        return self.canonical(x[None])[0]

    def canonical(self, rows: Tensor) -> Tensor:
        """The nearest x of λ, whatever the bounds; shape (N, n)."""
        if not self._places:
            return rows
        rows = rows.clone()
        places = self._places.values()
        numbers = torch.stack([rows[:, place].argmax(1) for place in places], 1)
        kinds, kind = numbers.unique(dim=0, return_inverse=True)
        for index, row in enumerate(kinds.tolist()):
            own, options = kind == index, self._options(tuple(row))
            unused = ~self._walked(options) & ~self.is_option
            rows[own] = torch.where(unused, self._start, rows[own])
            for name, place in self._places.items():
                choice = self.choices[name]
                if not self._space.is_active(name, options):
                    options[name] = choice.initial
                rows[own, place] = _code(choice, choice.index(options[name]))
        return rows

    def box(self) -> tuple[Tensor, Tensor]:
        """Least and largest x that a search by values looks at."""
        low = torch.zeros_like(self._start)
        high = torch.full_like(self._start, APART)
        if self._walk is not None:
            low[: self._count], high[: self._count] = self._walk.box()
        return low, high

    def used(self, x: Tensor) -> Tensor:
        """Which coordinates are continuous, and used by the options at x; bool (n,)."""
        return self._walked(self._options(self._numbers(x)))

    def at_shares(self, shares: Tensor) -> Tensor:
        """X in a box of equal sides, one for each scalar and choice; shape (N, n).

        Args:
            shares: how far along each side, in [0, 1), shape (N, dimensions).
        """
        low, high = self.box()
        rows = low.repeat(len(shares), 1)
        walked = slice(0, self._count)
        way = (high - low)[walked]
        rows[:, walked] = low[walked] + shares[:, walked] * way
        for side, (name, place) in enumerate(self._places.items(), self._count):
            count = len(self.choices[name].options)
            number = (shares[:, side] * count).long().clamp(max=count - 1)
            rows[:, place] = APART * torch.nn.functional.one_hot(number, count).double()
        return self.canonical(rows)

    def beside(self, rows: Tensor, random: torch.Generator) -> Tensor:
        """The rows, of which half have another option in one of the choices."""
        if not self._places:
            return rows
        rows = rows.clone()
        names = list(self._places)
        for row in rows[::2]:
            name = names[int(torch.randint(len(names), (), generator=random))]
            choice = self.choices[name]
            number = int(torch.randint(len(choice.options), (), generator=random))
            row[self._places[name]] = _code(choice, number)
        return rows

    def with_option(self, x: Tensor, name: str, number: int) -> Tensor:
        """X with an option of a choice, by its number."""
        x = x.clone()
        x[self._places[name]] = _code(self.choices[name], number)
        return self.project(x)

    def _walked(self, options: Hparams) -> Tensor:
        active = set(self._space.active(options))
        walked = [name in active for name in self._names]
        return torch.tensor(walked + [False] * (len(self._start) - self._count))

    def _numbers(self, x: Tensor) -> tuple[int, ...]:
        """The number of each choice's option."""
        return tuple(int(x[place].argmax()) for place in self._places.values())

    def _options(self, numbers: tuple[int, ...]) -> Hparams:
        options = {name: c.initial for name, c in self._space.choices.items()}
        for (name, choice), number in zip(self.choices.items(), numbers, strict=True):
            options[name] = choice.options[number]
        return options


def _code(choice: Choice, number: int) -> Tensor:
    code = torch.zeros(len(choice.options), dtype=torch.float64)
    code[number] = APART
    return code
