"""Seeded draws and scaled tables of the tuning tasks."""

import torch
from torch import Tensor


def random_of(seed: int, which: int = 0) -> torch.Generator:
    """The generator of a seed, one for each thing that is drawn."""
    return torch.Generator().manual_seed(1_000_003 * which + seed)


def scaled(inputs: Tensor) -> Tensor:
    """A table whose columns have zero mean and unit variance."""
    return (inputs - inputs.mean(0)) / inputs.std(0).clamp(min=1e-6)
