"""Arithmetic on weights of every kind: complex, half precision, distributed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def real(x: Tensor) -> Tensor:
    """A complex tensor as pairs of reals, a view; any other as it is."""
    return torch.view_as_real(x) if x.is_complex() else x


def plus(x: Tensor, factor: Any, y: Tensor) -> Tensor:
    """X + factor · y, for a number or a tensor."""
    if isinstance(factor, Tensor):
        return x + factor * y
    return x.add(y, alpha=factor) if factor else x


def dot(x: Tensor, y: Tensor) -> Tensor:
    """X · y in single precision at least, of all ranks' shards, shape ()."""
    x, y = real(x), real(y)
    if x.dtype in (torch.bfloat16, torch.float16):
        x, y = x.float(), y.float()
    if isinstance(x, DTensor):
        total = (x * y).sum()
        assert isinstance(total, DTensor)
        return total.full_tensor()
    if x.stride() == y.stride() and x.is_contiguous():
        return torch.dot(x.flatten(), y.flatten().to(x.dtype))
    return (x * y).sum()
