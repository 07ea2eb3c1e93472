"""Numbers that Python code reads from tensors while it is traced."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.overrides import TorchFunctionMode

#: How code reads one: bool(x), int(x), range(x) and x.item().
READS = {Tensor.__bool__, Tensor.__int__, Tensor.__index__, Tensor.item}


class Reads(NamedTuple):
    """What a trace takes for granted of integers and truth values that were read.

    Attributes:
        tensors: what they were read from, each of one element.
        values: the numbers.
    """

    tensors: list[Tensor]
    values: list[int]


class _Reading(TorchFunctionMode):
    """Lets a traced function read integers and truth values, and notes them."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Reads([], [])

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        x = _plain(args[0]) if func in READS else None
        if x is None:
            return func(*args, **(kwargs or {}))
        # Not a result of an operator, which a transform around it would wrap.
        self.found.tensors.append(x)
        with disable_proxy_modes_tracing():
            value = x.detach().clone()
            self.found.values.append(int(value))
            return func(value)


@contextmanager
def reading() -> Iterator[Reads]:
    """The integers and truth values that are read from tensors here.

    A number with a fraction is no such value: a compiled step would round it otherwise.
    """
    with _Reading() as mode:
        yield mode.found


def hold(tensors: Sequence[Tensor], values: Sequence[int]) -> bool:
    """Whether what is read would be read again."""
    return all(int(x) == value for x, value in zip(tensors, values, strict=True))


def _plain(x: Any) -> Tensor | None:
    """A tensor of one integer below all transforms; None where there is no such one."""
    if not isinstance(x, Tensor) or x.numel() != 1 or _fractional(x.dtype):
        return None
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return None
        x = functorch.get_unwrapped(x)
    return x


def _fractional(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex
