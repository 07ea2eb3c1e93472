"""Copies of a user's module: to run, and to hand back with tuned weights."""

import sys
from collections.abc import Iterable
from copy import deepcopy
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from raymeta.modules.overrides.internals import forward_hooks, memory, sublayers
from raymeta.types import Tensors

#: They compute a weight from others before each call, and keep it, with its graph.
_REPARAMETRIZED = (WeightNorm, SpectralNorm, BasePruningMethod)
#: Where torch keeps layers of integer weights, whose operators have no derivative.
_QUANTIZED = (
    "torch.ao.nn.",
    "torch.nn.quantized",
    "torch.nn.intrinsic",
    "torch.nn.qat",
)


class _Cut(TorchFunctionMode):
    """Within it, a copy of a tensor with a graph is one without.

    `deepcopy` refuses such tensors: features that a module kept from an earlier call,
    weights that `nn.utils.weight_norm` computed.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call a function of tensors, or copy one."""
        if func is not Tensor.__deepcopy__ or args[0].is_leaf:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo.setdefault(id(tensor), tensor.detach().clone())


def copied(module: nn.Module, shared: Iterable[tuple[Tensor, Tensor]] = ()) -> Any:
    """A copy of a module; what an earlier call left in it has no graph.

    Args:
        module: any module.
        shared: pairs of its tensors and those that take their places.

    Raises:
        ValueError: it cannot be copied.
    """
    memo: dict[int, Any] = {id(tensor): other for tensor, other in shared}
    with _Cut():
        try:
            return deepcopy(module, memo)
        except Exception as error:
            culprit = _uncopied(module) or type(module).__name__
            raise ValueError(
                f"raymeta runs copies of a module, but {culprit} cannot be copied "
                f"({_first_line(error)}): keep it outside of the module, or give its "
                "class a __deepcopy__"
            ) from error


def _uncopied(module: nn.Module) -> str | None:
    """The attribute that has no copy, as Class.attribute."""
    for layer in module.modules():
        for name, value in vars(layer).items():
            if value is sublayers(layer):
                continue
            try:
                deepcopy(value)
            except Exception:
                return f"{type(layer).__name__}.{name}"
    return None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def require_module(module: Any, caller: str) -> None:
    """Raise ValueError unless this is a module whose weights can come from outside."""
    if not isinstance(module, nn.Module):
        kind = isinstance(module, type)
        received = f"the class {module.__name__}" if kind else type(module).__name__
        remedy = f"give {module.__name__}(...)" if kind else "wrap it in one"
        raise ValueError(f"{caller} needs an nn.Module, but got {received}: {remedy}")
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in tensors:
        if is_lazy(tensor):
            raise ValueError(
                f"{caller} needs a module whose tensors have a shape, but {name} has "
                "none yet: call the module once on a batch first"
            )
        if tensor.is_meta:
            raise ValueError(
                f"{caller} needs a module with values, but {name} is on the meta "
                "device: use module.to_empty(device=...) and load its weights first"
            )
    for name, layer in module.named_modules():
        where = f"{type(layer).__name__}" + (f" at {name}" if name else "")
        reason = _foreign(layer)
        if reason is not None:
            raise ValueError(f"{caller} cannot train {where}, {reason}")
    devices = sorted({str(tensor.device) for _, tensor in tensors})
    if len(devices) > 1:
        raise ValueError(
            f"{caller} needs a module on one device, but got {', '.join(devices)}: "
            "use module.to(device)"
        )
    _require_own_memory(module, caller)


def _foreign(layer: nn.Module) -> str | None:
    """Why the weights of a layer cannot come from outside, and what to do."""
    home = type(layer).__module__
    # Where it was not imported there are none.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and isinstance(layer, fsdp.FSDPModule):
        return (
            "whose weights fully_shard gathers within its forward: leave fully_shard "
            "out, and share examples out by raymeta.distributed.data_parallel"
        )
    parallel = isinstance(layer, DataParallel | DistributedDataParallel)
    if parallel or home.startswith("torch.distributed"):
        return "which sends its weights elsewhere: give its .module"
    if isinstance(layer, torch.jit.ScriptModule):
        return "whose weights are compiled in: give the module that it was made from"
    if any(cls.__module__.startswith("torch.export") for cls in type(layer).__mro__):
        return "which was exported in one mode: give the module that it was made from"
    if home.startswith("torch._dynamo"):  # whose import takes long
        return (
            "whose code was compiled for other tensors: give its ._orig_mod, and "
            "compile=True to the estimator"
        )
    if home.startswith(_QUANTIZED) and not home.endswith("non_dynamically_quantizable"):
        return "which is quantized and has no derivative: give the module before that"
    return None


def _require_own_memory(module: nn.Module, caller: str) -> None:
    """Raise ValueError where two names are of one memory but not of one tensor."""
    spans = []
    buffers = {name for name, _ in module.named_buffers()}
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        if (home := memory(tensor)) is not None:
            last = sum(
                (n - 1) * by
                for n, by in zip(tensor.shape, tensor.stride(), strict=True)
            )
            start = tensor.storage_offset() * tensor.element_size()
            end = start + (last + 1) * tensor.element_size()
            spans.append((home, start, end, name))
    spans.sort()
    for (one, _, end, name), (other, start, _, second) in pairwise(spans):
        # Buffers may: tables are views of one another, and no optimizer moves them.
        if one == other and start < end and not {name, second} <= buffers:
            raise ValueError(
                f"{caller} needs tensors with memory of their own, but {name} and "
                f"{second} share theirs: make them one nn.Parameter, or clone one"
            )


def with_tensors(module: nn.Module, tensors: Tensors) -> nn.Module:
    """A module in evaluation mode with other parameters and buffers, in place.

    Args:
        module: a copy.
        tensors: values by name; the module's own where there is none.
    """
    module.eval()
    with torch.no_grad():
        for name, own in chain(module.named_parameters(), module.named_buffers()):
            if name in tensors:
                own.data = tensors[name].detach().clone()
        for layer in module.modules():
            for hook in forward_hooks(layer)["before"].values():
                if isinstance(hook, _REPARAMETRIZED):
                    hook(layer, ())
    return module
