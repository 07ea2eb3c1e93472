"""Optimizers of `torch.optim` that begin to learn where they stand."""

from __future__ import annotations

from typing import Any

import torch

from raymeta.errors import said
from raymeta.online.adam import Adam, AdamW
from raymeta.online.base import Learning, Per
from raymeta.online.coordinates import named, require_names
from raymeta.online.muon import Muon
from raymeta.online.sgd import SGD
from raymeta.optim.torch_schedulers import wrapped_by_scheduler
from raymeta.space import Space

RULES: dict[type, type[Learning]] = {
    rule.RULE: rule for rule in (SGD, Adam, AdamW, Muon)
}


def from_torch(
    optimizer: torch.optim.Optimizer,
    learn: Any = ("lr",),
    *,
    hyper_lr: float | None = None,
    per: Per = "group",
    trace: float = 0.0,
    space: Space | None = None,
) -> Learning:
    """An optimizer of `torch.optim`, which learns its hyperparameters from now on.

    It is the same object: schedulers, trainers and scalers that hold it go on with it.
    Its memory stays; where its state is that of one that learnt, learning goes on.

    Args:
        optimizer: of a class that `raymeta.online` has, and no subclass.
        learn: see `raymeta.online.base.Learning`, likewise the others. A weight decay
            of 0, which biases often have, stays 0.
        hyper_lr: η.
        per: what has a value of its own.
        trace: γ.
        space: bounds and coordinates.

    Raises:
        ValueError: another class; one whose `step` was replaced; see `Learning`; the
            optimizer is as it was then.
    """
    rule = RULES.get(type(optimizer))
    if rule is None:
        if isinstance(optimizer, Learning):
            raise ValueError(f"this {type(optimizer).__name__} learns already")
        kind = type(optimizer)
        raise ValueError(
            f"only {', '.join(kind.__name__ for kind in RULES)} of torch.optim learn, "
            f"but got {kind.__module__}.{kind.__name__}: take one of these"
        )
    step = vars(optimizer).get("step")
    if step is not None and not wrapped_by_scheduler(step):
        raise ValueError(
            f"the step of this {rule.__name__} was replaced by {said(step)}, which "
            "would not learn: let it learn before whatever replaces it"
        )
    learn = require_names(rule.__name__, learn, rule.LEARNABLE)
    groups = [_begun(group, learn) for group in optimizer.param_groups]
    if learn and not any(group["learn"] for group in groups):
        raise ValueError(
            f"{rule.__name__} has weight_decay=0 in all groups: give it a start above "
            "0, such as weight_decay=0.0001, or learn lr"
        )
    rule.take_over(optimizer, groups, learn, hyper_lr, per, trace, space)
    assert isinstance(optimizer, Learning)
    if step is not None:
        _mark_scheduled(optimizer)
    return optimizer


def _begun(group: dict[str, Any], learn: tuple[str, ...]) -> dict[str, Any]:
    if "learned" in group:
        return dict(group)
    kept = [n for n in learn if n != "weight_decay" or named(group, n)]
    return {**group, "learn": tuple(kept)}


def _mark_scheduled(optimizer: torch.optim.Optimizer) -> None:
    """Let schedulers find the mark of theirs that they look for on a step.

    They put it on as they are made: one is, whose factor is 1.
    """
    del optimizer.step
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
