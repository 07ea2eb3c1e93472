"""Breast cancer data that ship with scikit-learn."""

from functools import cache

import torch
from numpy.typing import NDArray
from torch import Tensor


def breast_cancer() -> tuple[Tensor, Tensor]:
    """569 tumours: 30 measurements each (569, 30), as they are, and labels (569,).

    Inputs and labels have torch's default dtype; label 1 is benign (357), 0 malignant.

    Source: UCI "Breast Cancer Wisconsin (Diagnostic)" (Wolberg et al. 1995), CC BY 4.0,
    as bundled with scikit-learn.
    """
    dtype = torch.get_default_dtype()
    inputs, labels = _bundled()
    return torch.tensor(inputs, dtype=dtype), torch.tensor(labels, dtype=dtype)


@cache
def _bundled() -> tuple[NDArray, NDArray]:
    # scikit-learn takes a second to import: only who needs the data pays for it.
    from sklearn.datasets import load_breast_cancer

    return load_breast_cancer(return_X_y=True)
