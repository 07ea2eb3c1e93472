"""Random linear classifiers, for which a data set is learnt."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from raymeta.data.episodes import Episode, SplitName
from raymeta.data.random import draws
from raymeta.errors import require_types


@dataclass(frozen=True, kw_only=True)
class LinearClassifiers:
    """Initial classifiers x -> w·x + b with w, b ~ N(0, 1).

    Support is `{"w": (N, d), "b": (N,)}`, query `()`: what is learnt is the data.

    Attributes:
        dimensions: d, of the inputs.

    Raises:
        ValueError: fewer than one dimension.

    Source: Grefenstette et al. 2019, the authors' distributed example: a learned data
    set in the plane, with a new classifier for each worker and outer step.
    """

    dimensions: int = 2
    name: ClassVar[str] = "classifiers"

    def __post_init__(self) -> None:
        """Check the size."""
        require_types(self)
        if self.dimensions < 1:
            raise ValueError(
                f"linear classifiers need dimensions >= 1, but got {self.dimensions}"
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
        dtype = torch.get_default_dtype()
        w, b = random.normal("w", self.dimensions), random.normal("b")
        return Episode({"w": w.to(dtype), "b": b.to(dtype)}, ())
