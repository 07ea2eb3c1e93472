"""Regression of sinusoids."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raymeta.data.episodes import Episode, Examples, SplitName
from raymeta.data.random import draws
from raymeta.errors import require_types

AMPLITUDES = (0.1, 5.0)
PHASES = (0.0, math.pi)
INPUTS = (-5.0, 5.0)


@dataclass(frozen=True, kw_only=True)
class Sinusoid:
    """y = A sin(x - φ) with A ~ U[.1, 5], φ ~ U[0, π], x ~ U[-5, 5].

    Support and query are `Examples` of inputs and targets (N, n, 1).

    Attributes:
        shots: K, support points.
        queries: query points.
        grid: on validation and test tasks, the queries are this many points evenly
            spaced on [-5, 5], ends included; None draws them as in training.

    Raises:
        ValueError: no support or query points, or fewer than two on the grid.

    Source: Finn et al. 2017, section 5.1; the grid, of 100 points: Zintgraf et al.
    2019, the authors' code.
    """

    shots: int = 10
    queries: int = 10
    grid: int | None = None
    name: ClassVar[str] = "sinusoid"

    def __post_init__(self) -> None:
        """Check the sizes."""
        require_types(self)
        grid = 2 if self.grid is None else self.grid
        if self.shots < 1 or self.queries < 1 or grid < 2:
            raise ValueError(
                f"sinusoids need shots >= 1, queries >= 1 and grid >= 2, but got "
                f"shots={self.shots}, queries={self.queries}, grid={self.grid}"
            )

    def episodes(
        self,
        step: int,
        count: int,
        start: int,
        stop: int,
        *,
        seed: int,
        split: SplitName,
    ) -> Episode:
        """Tasks start … stop - 1 of a step: see `Family.episodes`."""
        random = draws(step, count, start, stop, seed=seed, split=split)
        amplitude = _between(AMPLITUDES, random.uniform("amplitude", 1, 1))
        phase = _between(PHASES, random.uniform("phase", 1, 1))

        def curve(x: Tensor) -> Examples:
            y = amplitude * torch.sin(x - phase)
            dtype = torch.get_default_dtype()
            return Examples.unweighted(x.to(dtype), y.to(dtype))

        support = _between(INPUTS, random.uniform("support", self.shots, 1))
        if self.grid is None or split == "train":
            query = _between(INPUTS, random.uniform("query", self.queries, 1))
        else:
            points = torch.linspace(*INPUTS, self.grid, dtype=torch.float64)
            query = points[:, None].repeat(stop - start, 1, 1)
        return Episode(curve(support), curve(query))


def _between(interval: tuple[float, float], uniform: Tensor) -> Tensor:
    low, high = interval
    return low + (high - low) * uniform
