"""Hooks on the gradients of a module: which act, and which are refused."""

from torch import nn

from raymeta.autograd.stop_gradient import GradientRule


def gradient_hooks(module: nn.Module) -> dict[str, list[GradientRule]]:
    """The hooks of a module's parameters, which act on their training gradients.

    Raises:
        ValueError: hooks that run after a gradient was accumulated, or of layers.
    """
    found: dict[str, list[GradientRule]] = {}
    for name, p in module.named_parameters():
        if p._post_accumulate_grad_hooks:
            raise ValueError(
                f"raymeta takes gradients without accumulating them, but {name!r} has "
                "a post-accumulate-grad hook: use register_hook, or a rule of "
                "raymeta.optim"
            )
        if p._backward_hooks:
            found[name] = list(p._backward_hooks.values())
    for name, layer in module.named_modules():
        if layer._backward_hooks or layer._backward_pre_hooks:
            raise ValueError(
                "raymeta cannot tell a layer's backward hooks which derivative is "
                f"taken, but {name or type(layer).__name__!r} has some: remove them, "
                "or register hooks on its parameters"
            )
    return found
