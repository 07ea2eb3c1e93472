"""Numbers that Python code reads from tensors while it is traced."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.overrides import TorchFunctionMode

#: How code reads one: bool(x), int(x), range(x) and x.item().
READS = {Tensor.__bool__, Tensor.__int__, Tensor.__index__, Tensor.item}
#: How it reads all of a tensor, of which torch's own tracing sees nothing.
ARRAYS = {Tensor.tolist, Tensor.numpy, Tensor.__array__}


class Reads(NamedTuple):
    """What a trace takes for granted of numbers that were read.

    Attributes:
        tensors: what they were read from.
        values: the numbers, of their shapes.
    """

    tensors: list[Tensor]
    values: list[Tensor]


class _Reading(TorchFunctionMode):
    """Lets a traced function read numbers, and notes them."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Reads([], [])

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        x = _plain(args[0]) if _is_noted(func, args) else None
        if x is None:
            return func(*args, **kwargs)
        # Not a result of an operator, which a transform around it would wrap.
        self.found.tensors.append(x)
        with disable_proxy_modes_tracing(), temporarily_clear_interpreter_stack():
            self.found.values.append(x.detach().clone())
            return func(x.detach().clone(), *args[1:], **kwargs)


@contextmanager
def reading() -> Iterator[Reads]:
    """The integers and truth values that are read from tensors here, and arrays.

    One number with a fraction is no such value: a compiled step would round it
    otherwise.
    """
    with _Reading() as mode:
        yield mode.found


def hold(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> bool:
    """Whether what is read would be read again."""
    return all(map(torch.equal, tensors, values))


def _is_noted(func: Any, args: Sequence[Any]) -> bool:
    """Whether it reads what can be looked at in every step."""
    if func in READS:
        return args[0].numel() == 1 and not _fractional(args[0].dtype)
    # Where a gradient is lost, torch refuses.
    return func in ARRAYS and not (func is not Tensor.tolist and args[0].requires_grad)


def _plain(x: Tensor) -> Tensor | None:
    """A tensor below all transforms; None where there is no such one."""
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return None
        x = functorch.get_unwrapped(x)
    return x


def _fractional(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex
