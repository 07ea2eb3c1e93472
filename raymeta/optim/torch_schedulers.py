"""Schedules of the settings of groups, as a scheduler of `torch.optim` has them."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from raymeta.optim.settings import Schedule


def is_scheduled(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a scheduler was made for an optimizer, which changes its settings.

    It wraps `step` then. One that follows a metric (`ReduceLROnPlateau`) leaves no
    mark: it is looked for among what holds the optimizer.
    """
    wrapped = wrapped_by_scheduler(vars(optimizer).get("step"))
    moved = any(g.get("initial_lr", g["lr"]) != g["lr"] for g in optimizer.param_groups)
    return wrapped or moved or _follows_a_metric(optimizer)


def wrapped_by_scheduler(step: Any) -> bool:
    """Whether the step of an optimizer is one that a scheduler made of it."""
    return isinstance(step, FunctionType) and step.__globals__ is vars(lr_scheduler)


def _follows_a_metric(optimizer: torch.optim.Optimizer) -> bool:
    holders = gc.get_referrers(optimizer)
    # What holds it may be the dictionary of a scheduler's attributes.
    dicts = [holder for holder in holders if isinstance(holder, dict)]
    holders += [owner for attributes in dicts for owner in gc.get_referrers(attributes)]
    return any(
        isinstance(holder, ReduceLROnPlateau) and holder.optimizer is optimizer
        for holder in holders
    )


def followed(
    optimizer: torch.optim.Optimizer, scheduler: LRScheduler, steps: Any, every: Any
) -> list[dict[str, Any]]:
    """The optimizer's groups, with a `Schedule` for each number that changes.

    A copy of the scheduler takes the steps; the given one stays where it is.

    Args:
        optimizer: whose settings the scheduler changes.
        scheduler: a scheduler before its first step.
        steps: T, the training steps of a run; an integer.
        every: training steps from one step of the scheduler to the next; likewise.

    Raises:
        ValueError: the scheduler is of another optimizer, has taken steps, follows a
            metric, cannot be copied, or ends before the run.
    """
    name = type(scheduler).__name__
    _require_fresh(optimizer, scheduler)
    for what, count in ("steps", steps), ("every", every):
        if not isinstance(count, int) or count < 1:
            raise ValueError(
                f"from_torch needs {what} >= 1 to follow {name}, but got {count!r}: "
                "give steps=, the training steps of a run, and every=, how many of "
                "them are between two of the scheduler"
            )
    params = [p for group in optimizer.param_groups for p in group["params"]]
    try:
        copied = copy.deepcopy(scheduler, {id(p): p for p in params})
    except Exception as error:
        raise ValueError(
            f"from_torch steps a copy of the scheduler, but {name} cannot be copied "
            f"({type(error).__name__}: {' '.join(str(error).split())[:100]}): give its "
            "values to a rule of raymeta.optim as a Schedule"
        ) from error
    groups = copied.optimizer.param_groups
    rows = [[_numbers(group) for group in groups]]
    for t in range(1, steps):
        if t % every == 0:
            _step(copied, t)
        rows.append([_numbers(group) for group in groups])
    columns = zip(*rows, strict=True)
    device = params[0].device
    return [
        group | {key: _joint([row[key] for row in own], device) for key in own[0]}
        for group, own in zip(optimizer.param_groups, columns, strict=True)
    ]


def _require_fresh(optimizer: torch.optim.Optimizer, scheduler: LRScheduler) -> None:
    name = type(scheduler).__name__
    if isinstance(scheduler, ReduceLROnPlateau) or not isinstance(
        scheduler, LRScheduler
    ):
        raise ValueError(
            "from_torch follows a scheduler of torch.optim.lr_scheduler whose values "
            f"depend on the step alone, but got {name}: take one, or a Schedule"
        )
    if scheduler.optimizer is not optimizer:
        raise ValueError(
            f"from_torch needs the scheduler of its optimizer, but this {name} has "
            "another one: pass both"
        )
    if scheduler.state_dict().get("last_epoch", 0):
        raise ValueError(
            f"from_torch follows a scheduler from its start, but this {name} has taken "
            "steps: make a new one"
        )


def _step(scheduler: LRScheduler, t: int) -> None:
    with warnings.catch_warnings():
        # That the optimizer has taken no step: it takes none here.
        warnings.simplefilter("ignore")
        try:
            scheduler.step()
        except ValueError as error:
            raise ValueError(
                f"from_torch needs a scheduler for all steps, but "
                f"{type(scheduler).__name__} ends before step {t} "
                f"({' '.join(str(error).split())[:100]}): give fewer steps"
            ) from error


def number(value: Any) -> Any:
    """A setting that is a tensor as the number that it is now; others as they are."""
    if isinstance(value, tuple | list):
        return tuple(number(x) for x in value)
    return float(value) if isinstance(value, torch.Tensor) else value


def _numbers(group: Mapping[str, Any]) -> dict[str, Any]:
    """What of a group a scheduler may change: numbers, and pairs of them."""
    kept = {key: number(value) for key, value in group.items() if key != "params"}
    return {
        key: value
        for key, value in kept.items()
        if key == "betas" or (isinstance(value, int | float) and value is not True)
    }


def _joint(values: list[Any], device: torch.device) -> Any:
    """One value of all steps; a `Schedule` where they differ."""
    if isinstance(values[0], tuple):
        each = zip(*values, strict=True)
        return tuple(_joint(list(column), device) for column in each)
    if all(value == values[0] for value in values):
        return values[0]
    return Schedule(torch.tensor(values, dtype=torch.float64, device=device))
