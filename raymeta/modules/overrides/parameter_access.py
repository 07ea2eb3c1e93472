"""Access of a module to its parameters: by their names, and only to read."""

from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from raymeta._tree import tree_leaves
from raymeta.modules.attributes import kept_tensors
from raymeta.modules.overrides.internals import memory
from raymeta.types import Tensors


class Access(TorchDispatchMode):
    """Within it, a call that does more than read its parameters is refused.

    Args:
        module: what is called.
        original: what it is a copy of.
        params: values that stand where its parameters do.
        buffers: values that stand where its buffers do.
        inputs: what it is called with.

    Attributes:
        writes_inputs: whether one of them was written into.

    Raises:
        ValueError: within it, and at its end: a parameter is written into or replaced;
            a tensor is read whose place another one has taken; a gradient is not the
            derivative.
    """

    def __init__(
        self,
        module: nn.Module,
        original: nn.Module,
        params: Tensors,
        buffers: Tensors,
        inputs: tuple,
    ) -> None:
        super().__init__()
        self._name = type(original).__name__
        self._params = params
        self._inputs = {memory(x) for x in tree_leaves(inputs)} - {None}
        self.writes_inputs = False
        self._given = _by_memory(params.items())
        given = self._given | _by_memory(buffers.items())
        tensors = (
            pair
            for each in (module, original)
            for pair in chain(each.named_parameters(), each.named_buffers())
            if pair[0] in params or pair[0] in buffers
        )
        hidden = _by_memory(tensors)
        # Views that it made earlier; its copies of them are no views.
        self._views = kept_tensors(module)  # kept, for memory is that of a live tensor
        for one, other in zip(kept_tensors(original), self._views, strict=False):
            name = hidden.get(memory(one))
            if name is not None and not isinstance(one, nn.Parameter):
                hidden[memory(other)] = name
        self._hidden = {key: hidden[key] for key in hidden.keys() - given.keys()}
        module.register_forward_hook(self._require_own)

    def _require_own(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        now = dict(module.named_parameters())
        for home, name in self._given.items():
            if now.get(name) is not self._params[name] or memory(now[name]) != home:
                raise self._writes(name)
        others = sorted(now.keys() - self._params.keys())
        if others:
            raise ValueError(
                f"raymeta needs a module with all its parameters, but {self._name} "
                f"makes {others[0]} when it is called: call it once on a batch first"
            )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call an operator."""
        kwargs = kwargs or {}
        _require_derivative(func, args)
        for x in tree_leaves((args, kwargs)):
            name = self._hidden.get(memory(x))
            if name is not None:
                raise ValueError(
                    f"raymeta cannot replace {name} of {self._name}, which is read by "
                    "another way than its place in the module (a closure, a list, a "
                    "view made earlier): read it by its name when it is needed"
                )
        for argument, x in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                home = memory(x)
                self.writes_inputs |= home in self._inputs
                if home in self._given:
                    raise self._writes(self._given[home])
        return func(*args, **kwargs)

    def _writes(self, name: str) -> ValueError:
        return ValueError(
            f"raymeta cannot differentiate {self._name}, which writes into its "
            f"parameter {name} when it is called: compute from it what is needed, or "
            "register it as a buffer"
        )


def _require_derivative(func: Any, args: tuple) -> None:
    """Raise ValueError where torch's gradient is another than the derivative."""
    if func is torch.ops.aten.embedding.default:
        padding, frequencies, sparse = (*args[2:], -1, False, False)[:3]
        settings = {
            "padding_idx": padding >= 0,
            "scale_grad_by_freq": frequencies,
            "sparse": sparse,
        }
        given = [name for name, on in settings.items() if on]
        if given:
            raise ValueError(
                f"raymeta cannot differentiate torch.embedding with {given[0]}, whose "
                "gradient is not the dense derivative: use F.embedding, or leave it out"
            )
    if "fake_quantize" in func.name():
        raise ValueError(
            f"raymeta cannot differentiate {func.name()}, whose gradient is not the "
            "derivative of what it gives: train the module without it"
        )


def _by_memory(named: Any) -> dict[Any, str]:
    found = {memory(x): name for name, x in named}
    found.pop(None, None)
    return found
