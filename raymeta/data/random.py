"""Random numbers as a function of what they are for."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raymeta.data.episodes import SPLITS, SplitName
from raymeta.errors import unknown_name

# Philox gives four 64-bit words for each value of its counter.
WORDS = 4


@dataclass(frozen=True)
class Draws:
    """The random numbers of tasks start … stop - 1 of an outer step.

    What a task gets is a function of (seed, split, step, stream, task number): of no
    other task, and so not of how tasks are shared among workers. Nothing is drawn for
    the tasks of others.

    Attributes:
        seed: seed of the whole run.
        split: the part of the family's tasks.
        step: the outer step.
        start: the first task's number.
        stop: the number after the last one's.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3": Philox.
    The key is the hash of the rest, the counter the task number.
    """

    seed: int
    split: SplitName
    step: int
    start: int
    stop: int

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """U[0, 1): shape (tasks, *shape), float64; each stream has its own."""
        text = f"{self.seed} {self.split} {self.step} {stream}"
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        size = math.prod(shape)
        blocks = -(-size // WORDS)
        source = np.random.Philox(key=int.from_bytes(key), counter=blocks * self.start)
        tasks = self.stop - self.start
        rows = np.random.Generator(source).random((tasks, blocks * WORDS))
        return torch.from_numpy(rows)[:, :size].reshape(tasks, *shape)

    def normal(self, stream: str, *shape: int) -> Tensor:
        """N(0, 1): shape (tasks, *shape), float64."""
        # A uniform number may be 0, whose quantile is infinite.
        return torch.special.ndtri(self.uniform(stream, *shape).clamp_min(2.0**-54))

    def integers(self, stream: str, high: Tensor | int, *shape: int) -> Tensor:
        """Uniform on 0 … high - 1: shape (tasks, *shape), int64."""
        return (self.uniform(stream, *shape) * high).long()

    def distinct(self, stream: str, size: int, high: int) -> Tensor:
        """`size` different numbers of 0 … high - 1, in random order: (tasks, size)."""
        return self.uniform(stream, high).topk(size).indices


def draws(
    step: int, count: int, start: int, stop: int, *, seed: int, split: SplitName
) -> Draws:
    """The random numbers for `Family.episodes`, with its arguments.

    Raises:
        ValueError: an unknown split; start … stop - 1 are not tasks of the `count`.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if not 0 <= start < stop <= count:
        raise ValueError(
            f"episodes needs 0 <= start < stop <= count, but got start={start}, "
            f"stop={stop}, count={count}: ask for at least one of the step's tasks"
        )
    return Draws(seed, split, step, start, stop)
