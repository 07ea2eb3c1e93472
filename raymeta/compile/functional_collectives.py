"""Collectives that return new tensors: what a trace sees of a sum over ranks."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

functional = torch.ops._c10d_functional


def all_reduce(tensors: Sequence[Tensor], group: ProcessGroup) -> list[Tensor]:
    """The sums over ranks of tensors, one message for all of a dtype.

    Args:
        tensors: of the same shapes, dtypes and order on every rank; real ones.
        group: the ranks.
    """
    sums: list[Tensor] = list(tensors)
    for dtype in dict.fromkeys(x.dtype for x in tensors):
        places = [i for i, x in enumerate(tensors) if x.dtype == dtype]
        flat = [tensors[i].reshape(-1) for i in places]
        message = flat[0] if len(flat) == 1 else torch.cat(flat)
        total = _sum(message, group)
        for i, part in zip(places, total.split([len(x) for x in flat]), strict=True):
            sums[i] = part.view(tensors[i].shape)
    return sums


def plain() -> AbstractContextManager:
    """Off with modes that replace functions: they would come between send and wait."""
    return torch._C.DisableTorchFunction()


def _sum(x: Tensor, group: ProcessGroup) -> Tensor:
    with warnings.catch_warnings():
        # Its derivative is that of the Function around it.
        warnings.filterwarnings("ignore", ".*autograd kernel was not registered")
        total = functional.all_reduce(x.contiguous(), "sum", group.group_name)
        return functional.wait_tensor(total)
