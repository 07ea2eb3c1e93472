"""Outer optimizers and learning-rate schedulers by name: the classes of torch.optim."""

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from raymeta.errors import unknown_name

#: (parameters, learning rate) -> the outer optimizer.
MakeOptimizer = Callable[[Iterable[nn.Parameter], float], Optimizer]
#: The outer optimizer -> what changes its learning rate, once after each update.
MakeScheduler = Callable[[Optimizer], LRScheduler]

#: What a `backward` and a `step` do not drive, or needs more than a line can say.
_OTHER_OPTIMIZERS = {"LBFGS", "SparseAdam", "Optimizer"}
_OTHER_SCHEDULERS = {"LRScheduler", "ReduceLROnPlateau", "LambdaLR", "MultiplicativeLR"}
_OTHER_SCHEDULERS |= {"SequentialLR", "ChainedScheduler"}


def _classes(module: Any, base: type, others: set[str]) -> dict[str, type]:
    """Lower-case name -> class."""
    found = {k: x for k, x in vars(module).items() if isinstance(x, type)}
    return {
        name.lower(): kind
        for name, kind in found.items()
        if issubclass(kind, base) and name not in others and not name.startswith("_")
    }


OPTIMIZERS: Mapping[str, type] = _classes(torch.optim, Optimizer, _OTHER_OPTIMIZERS)
SCHEDULERS: Mapping[str, type] = _classes(lr_scheduler, LRScheduler, _OTHER_SCHEDULERS)


def optimizer_named(text: str) -> MakeOptimizer:
    """A class of `torch.optim`, as `AdamW` or `AdamW(weight_decay=0.01)`.

    Raises:
        ValueError: no such class, or no such option.
    """
    kind, options = _parsed("outer optimizer", text, OPTIMIZERS)
    if "lr" in options:
        raise ValueError(
            f"the outer learning rate is outer_lr, but got {text!r}: leave lr out"
        )
    return partial(_optimizer, kind, options)


def scheduler_named(text: str, outer_steps: int, outer_lr: float) -> MakeScheduler:
    """A class of `torch.optim.lr_scheduler`, as `CosineAnnealingLR` or `StepLR(…)`.

    What names the length of the run (`T_max`, `total_iters`, `total_steps`) is
    outer_steps by default, `max_lr` the outer learning rate.

    Raises:
        ValueError: no such class, or no such option.
    """
    kind, options = _parsed("scheduler", text, SCHEDULERS)
    known = inspect.signature(kind).parameters
    ours: dict[str, Any] = dict.fromkeys(
        ("T_max", "total_iters", "total_steps"), outer_steps
    )
    ours["max_lr"] = outer_lr
    return partial(kind, **{k: x for k, x in ours.items() if k in known} | options)


def scale_lr(
    optimizer: Optimizer, scheduler: LRScheduler | None, factor: float
) -> None:
    """Go on with a learning rate that is so much higher, wherever a schedule stands."""
    for group in optimizer.param_groups:
        for name in {"lr", "initial_lr"} & set(group):
            group[name] *= factor
    if scheduler is not None:
        scheduler.base_lrs = [x * factor for x in scheduler.base_lrs]


def _optimizer(
    kind: Any, options: dict[str, Any], parameters: Iterable[nn.Parameter], lr: float
) -> Optimizer:
    return kind(parameters, lr=lr, **options)


def _parsed(
    what: str, text: str, known: Mapping[str, type]
) -> tuple[Any, dict[str, Any]]:
    """Class and options of `Name` or `Name(option=value, …)`."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        call = tree if isinstance(tree, ast.Call) else None
        name = call.func if call else tree
        if not isinstance(name, ast.Name) or (call and call.args):
            raise SyntaxError
        keys = call.keywords if call else []
        given = {str(key.arg): ast.literal_eval(key.value) for key in keys}
    except (SyntaxError, ValueError):
        raise ValueError(
            f"{what} is given as Name or Name(option=number), as AdamW("
            f"weight_decay=0.01), but got {text!r}"
        ) from None
    if name.id.lower() not in known:
        names = [kind.__name__ for kind in known.values()]
        raise unknown_name(what, name.id, names)
    kind = known[name.id.lower()]
    has = list(inspect.signature(kind).parameters)[1:]
    for option in given:
        if option not in has:
            raise unknown_name(f"option of {kind.__name__}", option, has)
    return kind, given
