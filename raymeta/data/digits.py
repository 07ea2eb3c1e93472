"""The 8x8 handwritten digits that ship with scikit-learn."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor


@cache
def digits() -> tuple[Tensor, Tensor]:
    """1,797 images of handwritten digits: inputs (1797, 64) in [0, 1], labels (1797,).

    Source: UCI "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998),
    CC BY 4.0, the test part, as bundled with scikit-learn.
    """
    images, labels = load_digits(return_X_y=True)
    return (
        torch.tensor(images / 16.0, dtype=torch.get_default_dtype()),
        torch.tensor(labels, dtype=torch.int64),
    )
