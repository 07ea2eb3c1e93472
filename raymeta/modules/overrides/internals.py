"""Records that torch keeps of layers and tensors without a public name for them."""

from typing import Any

import torch
from torch import Tensor, nn

from raymeta._tree import tree_leaves

#: The attributes of an `nn.Module` as such; of its own it has `training` alone.
ATTRIBUTES = frozenset(vars(nn.Module())) - {"training"}


def buffers(layer: nn.Module) -> dict[str, Tensor | None]:
    """The buffers of a layer itself, those that are None included."""
    return layer._buffers


def sublayers(layer: nn.Module) -> dict[str, nn.Module | None]:
    """What is registered in a layer itself."""
    return layer._modules


def forward_hooks(layer: nn.Module) -> dict[str, dict[int, Any]]:
    """The hooks that run after and before a layer's forward pass, by their number."""
    return {"after": layer._forward_hooks, "before": layer._forward_pre_hooks}


def memory(x: Any) -> Any:
    """What two tensors share if they share memory; None where that cannot be told."""
    if not isinstance(x, Tensor) or x.layout != torch.strided or x.numel() == 0:
        return None
    return x.untyped_storage()._cdata


def versions(tree: Any) -> list[int]:
    """How often the tensors of a tree were written into."""
    tensors = [x for x in tree_leaves(tree) if isinstance(x, Tensor)]
    return [x._version for x in tensors if not x.is_inference()]
