"""Arithmetic on weights of every kind: complex, half precision, distributed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raymeta.distributed.sharded import full, is_sharded


class Scratch:
    """Memory in which tensor after tensor is computed, as large as the largest."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        return Scratch, ()

    def like(self, x: Tensor, place: int) -> Tensor | None:
        """A tensor to write over, as `out=`; None, so a new one, for distributed ones.

        Args:
            x: what it is as large as.
            place: those of different places are not the same memory.
        """
        if is_sharded(x):
            return None
        key = place, x.dtype, x.device
        kept = self._kept.get(key)
        if kept is None or kept.numel() < x.numel():
            kept = self._kept[key] = x.new_empty(x.numel())
        return kept[: x.numel()].view(x.shape)


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
    if is_sharded(x):
        return full((x * y).sum())
    if x.stride() == y.stride() and x.is_contiguous():
        return torch.dot(x.flatten(), y.flatten().to(x.dtype))
    return (x * y).sum()
