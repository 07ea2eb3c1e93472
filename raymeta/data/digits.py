"""Handwritten digits of 8x8 pixels that ship with scikit-learn."""

from functools import cache

import torch
from numpy.typing import NDArray
from torch import Tensor

from raymeta.data.episodes import SPLITS, SplitName
from raymeta.data.split import split


def digits() -> tuple[Tensor, Tensor]:
    """1,797 images of handwritten digits: inputs (1797, 64) in [0, 1], labels (1797,).

    Inputs have torch's default dtype, labels int64.

    Source: UCI "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998),
    CC BY 4.0, the test part, as bundled with scikit-learn.
    """
    images, labels = _bundled()
    return (
        torch.tensor(images / 16.0, dtype=torch.get_default_dtype()),
        torch.tensor(labels, dtype=torch.int64),
    )


@cache
def digit_parts() -> dict[SplitName, tuple[Tensor, Tensor]]:
    """The same for all seeds: 1,078, 359 and 360 images (n, 1, 8, 8), labels (n,)."""
    images, labels = digits()
    parts = split(images.view(-1, 1, 8, 8), labels, (0.6, 0.2), seed=0)
    return {
        name: (part.tensors[0], part.tensors[1])
        for name, part in zip(SPLITS, parts, strict=True)
    }


@cache
def _bundled() -> tuple[NDArray, NDArray]:
    # scikit-learn takes a second to import: only who needs the data pays for it.
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)
