"""Conversion of optimizers of `torch.optim` to differentiable rules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.hooks import RemovableHandle

from raymeta.optim.adadelta import adadelta
from raymeta.optim.adagrad import adagrad
from raymeta.optim.adam import adam
from raymeta.optim.base import Optimizer
from raymeta.optim.nadam import nadam
from raymeta.optim.radam import radam
from raymeta.optim.rmsprop import rmsprop
from raymeta.optim.sgd import sgd
from raymeta.optim.torch_schedulers import (
    followed,
    is_scheduled,
    number,
    wrapped_by_scheduler,
)

TorchFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

_RULES: dict[type, Callable[..., Optimizer]] = {
    torch.optim.SGD: sgd,
    torch.optim.Adam: adam,
    torch.optim.AdamW: adam,  # its groups say that weight decay is decoupled
    torch.optim.NAdam: nadam,
    torch.optim.RAdam: radam,
    torch.optim.RMSprop: rmsprop,
    torch.optim.Adagrad: adagrad,
    torch.optim.Adadelta: adadelta,
}
#: What a group says beside the rule: how it is computed, and what schedulers note.
_BESIDE = {"params", "param_names", "foreach", "fused", "capturable", "differentiable"}
_BESIDE |= {"initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr"}


def from_torch(
    optimizer: torch.optim.Optimizer | TorchFactory,
    params: Mapping[str, Tensor] | None = None,
    *,
    scheduler: LRScheduler | None = None,
    steps: int | None = None,
    every: int = 1,
) -> Optimizer:
    """The differentiable rule with the settings of an optimizer of `torch.optim`.

    Its settings are read now: those that change later are not followed, but for those
    that a scheduler changes. They are constants, or schedules; to learn one, give it to
    the rule itself, as in `sgd(lr=theta["lr"])`.

    Args:
        optimizer: SGD, Adam, AdamW, NAdam, RAdam, RMSprop, Adagrad or Adadelta; or what
            makes one from parameters, such as `partial(torch.optim.SGD, lr=0.01)`.
        params: the parameters that the rule is for, by name; each has the settings of
            its group. May be left out where there is one group, or the optimizer was
            given `named_parameters()`.
        scheduler: its scheduler, before the first step: the learning rate, and what
            else it changes, is that of each training step.
        steps: T of a run, with a scheduler; past them the last value holds.
        every: training steps from one step of the scheduler to the next, for one that
            steps once an epoch.

    Raises:
        ValueError: another class; one that has taken steps, has hooks, or has a
            scheduler that is not given; a scheduler that cannot be followed (see
            `followed`); groups that differ in a flag; several groups without `params`;
            a parameter that is in no group.
    """
    optimizer = _made(optimizer)
    rule = _RULES.get(type(optimizer))
    if rule is None:
        known = ", ".join(kind.__name__ for kind in _RULES)
        raise ValueError(
            f"from_torch needs one of {known}, but got {type(optimizer).__name__}: use "
            "a rule of raymeta.optim"
        )
    _require_as_made(optimizer)
    own = optimizer.param_groups
    if scheduler is not None:
        own = followed(optimizer, scheduler, steps, every)
    elif is_scheduled(optimizer):
        raise ValueError(
            "from_torch reads settings once, but a scheduler changes those of this "
            f"{type(optimizer).__name__}: pass scheduler= and steps=, the training "
            "steps of a run, or an optimizer without one"
        )
    elif steps is not None or every != 1:
        raise ValueError(
            f"steps and every are those of a scheduler, but got steps={steps} and "
            f"every={every} without one: pass scheduler= as well"
        )
    groups = [_settings(group, rule) for group in own]
    if params is None and len(groups) > 1:
        params = _named(optimizer)
    if params is None or (len(groups) == 1 and not _missing(optimizer, params)):
        return rule(**groups[0])
    return rule(**_by_name(optimizer, groups, params))


def _made(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer itself, or one made for a parameter of nobody's."""
    if isinstance(optimizer, torch.optim.Optimizer):
        return optimizer
    if not callable(optimizer) or isinstance(optimizer, LRScheduler):
        raise ValueError(
            "from_torch needs an optimizer of torch.optim, or what makes one from "
            f"parameters, but got {type(optimizer).__name__}: pass the optimizer"
        )
    return optimizer([nn.Parameter(torch.zeros(()))])


def _require_as_made(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError where a step is not that of the class with its settings."""
    name = type(optimizer).__name__
    # Adagrad has its memory from the start.
    if any(int(kept.get("step", 1)) for kept in optimizer.state.values() if kept):
        raise ValueError(
            f"from_torch needs an optimizer that has taken no step, as only settings "
            f"are read, but this {name} has memory: make a new one"
        )
    registers = optimizer.register_step_pre_hook, optimizer.register_step_post_hook
    if any(map(_has_hooks, registers)):
        raise ValueError(
            f"from_torch reads settings alone, but this {name} has hooks on its step, "
            "which may change anything: write what they do around the rule"
        )
    step = vars(optimizer).get("step")
    if step is not None and not wrapped_by_scheduler(step):
        raise ValueError(
            f"from_torch reads settings alone, but the step of this {name} was "
            "replaced: use a rule of raymeta.optim"
        )


def _has_hooks(register: Callable[..., RemovableHandle]) -> bool:
    handle = register(lambda *_: None)
    handle.remove()
    return bool(handle.hooks_dict_ref())


def _named(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The parameters by the names that an optimizer was given."""
    groups = optimizer.param_groups
    if not all("param_names" in group for group in groups):
        raise ValueError(
            f"from_torch needs params to tell {len(groups)} groups apart: give "
            "dict(module.named_parameters())"
        )
    return {
        name: p
        for group in groups
        for name, p in zip(group["param_names"], group["params"], strict=True)
    }


def _settings(
    group: Mapping[str, Any], rule: Callable[..., Optimizer]
) -> dict[str, Any]:
    """The arguments for the rule that a group stands for."""
    known = inspect.signature(rule).parameters
    given = {key: number(x) for key, x in group.items() if key not in _BESIDE}
    lacking = {key: x for key, x in given.items() if key not in known and x}
    if lacking:
        raise ValueError(
            f"from_torch needs what raymeta.optim.{rule.__name__} has, but got "
            f"{lacking}: leave it out"
        )
    return {key: value for key, value in given.items() if key in known}


def _by_name(
    optimizer: torch.optim.Optimizer,
    groups: list[dict[str, Any]],
    params: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The groups' settings, each as a mapping from names of parameters."""
    missing = _missing(optimizer, params)
    if missing:
        raise ValueError(
            f"from_torch needs an optimizer of all parameters of the rule, but "
            f"{type(optimizer).__name__} does not have {missing}: add them to a group"
        )
    group_of = {
        id(p): group
        for own, group in zip(optimizer.param_groups, groups, strict=True)
        for p in own["params"]
    }
    each = {name: group_of[id(p)] for name, p in params.items()}
    joint: dict[str, Any] = {}
    for key, first in groups[0].items():
        values = {name: group[key] for name, group in each.items()}
        if key == "betas":
            pairs = zip(*values.values(), strict=True)
            joint[key] = tuple(dict(zip(values, beta, strict=True)) for beta in pairs)
        elif not isinstance(first, bool):
            joint[key] = values
        elif any(value != first for value in values.values()):
            raise ValueError(
                f"from_torch needs one {key} for all groups, but got {values}: the "
                "rules of raymeta.optim have no more"
            )
        else:
            joint[key] = first
    return joint


def _missing(
    optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor]
) -> list[str]:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [name for name, p in params.items() if id(p) not in held]
