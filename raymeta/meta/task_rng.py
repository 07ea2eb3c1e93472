"""Random numbers inside the modules of inner loops."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from raymeta._tree import tree_leaves
from raymeta.modules.counter_rng import Noise


class TaskNoise(Noise):
    """Random numbers of an inner step that are the task's own.

    On whichever worker it runs, beside whatever others. Drawn only if asked for.

    Args:
        seed: any integer.
        data: the task's.
        index: the inner step, int64, shape ().
    """

    def __init__(self, seed: int, data: Any, index: Tensor | int) -> None:
        self.seed, self._data, self._index = seed, data, index
        self._drawn = self._draws = 0

    @cached_property
    def t(self) -> Tensor:  # type: ignore[override]
        """A number that differs where data or steps do, int64, shape ()."""
        return fingerprint(self._data) + self._index


def fingerprint(data: Any) -> Tensor:
    """A number below 2^24 that differs where data do, int64, shape ()."""
    total = torch.zeros((), dtype=torch.int64)
    for i, leaf in enumerate(tree_leaves(data)):
        bits = leaf.to(torch.float64).contiguous().view(torch.int64).flatten()
        places = torch.arange(1, 2 * len(bits), 2, device=bits.device)
        mixed = (bits ^ (bits >> 29)) * (places * _FACTOR + 2 * i)
        total = total.to(bits.device) + (mixed ^ (mixed >> 32)).sum()
    return total >> 20 & (1 << 24) - 1


#: An odd number whose bits look random: SplitMix64's first factor.
_FACTOR = 0xBF58476D1CE4E5B9 - (1 << 64)
