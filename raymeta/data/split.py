"""Splits of one data set into train, validation and test."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import TensorDataset


class Split(NamedTuple):
    """Three disjoint parts of one data set."""

    train: TensorDataset
    val: TensorDataset
    test: TensorDataset


def split(x: Tensor, y: Tensor, fractions: tuple[float, float], seed: int) -> Split:
    """Shuffle by `seed` and cut into train, validation and test.

    Args:
        x: inputs, shape (n, ...).
        y: targets, shape (n, ...).
        fractions: shares of train and validation; the rest is the test set.
        seed: seeds the shuffle.

    Raises:
        ValueError: the shares leave a part empty.
    """
    n = x.shape[0]
    n_train, n_val = (int(n * fraction) for fraction in fractions)
    if min(n_train, n_val, n - n_train - n_val) < 1:
        raise ValueError(
            f"split needs three non-empty parts, but fractions {fractions} of {n} "
            f"examples give {n_train}, {n_val} and {n - n_train - n_val}"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    parts = order.split([n_train, n_val, n - n_train - n_val])
    return Split(*(TensorDataset(x[part], y[part]) for part in parts))
