"""The 8x8 handwritten digits that ship with scikit-learn."""

from functools import cache

import torch
from numpy.typing import NDArray
from torch import Tensor


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
def _bundled() -> tuple[NDArray, NDArray]:
    # scikit-learn takes a second to import: only who needs the data pays for it.
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)
