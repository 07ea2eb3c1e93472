"""What an online optimizer refuses, each in one line."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from raymeta.errors import one_line, said, unknown_name

#: Settings that an older state may lack, which `torch.optim` then fills in.
FLAGS = {"maximize", "foreach", "fused", "capturable", "differentiable"}
FLAGS |= {"decoupled_weight_decay"}
PER = ("model", "group", "tensor", "weight")


@contextmanager
def refused_in_one_line(rule: str) -> Iterator[None]:
    """Turn what `torch.optim` raises of arguments of other types into a ValueError."""
    try:
        yield
    except (TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{rule} needs parameters, or groups of them as dicts with 'params', and "
            f"settings as its class of torch.optim has them, but that raises "
            f"{one_line(error)}: give module.parameters(), and numbers"
        ) from error


def require_sound(group: Mapping[str, Any]) -> None:
    """Raise ValueError unless the group's own settings make sense."""
    per, learn = group["per"], group["learn"]
    if per not in PER:
        raise unknown_name("per", per, PER)
    for name, high in (("trace", 1.0), ("hyper_lr", math.inf)):
        value = group[name]
        if not isinstance(value, int | float) or not 0 <= value < high:
            raise ValueError(
                f"{name} needs a number in [0, {high:g}), but got {said(value)}"
            )
    if per == "weight" and not set(learn) <= {"lr", "weight_decay"}:
        raise ValueError(
            f"per='weight' learns lr and weight_decay, but got learn={learn}: momenta "
            "and betas have values per='tensor' at most"
        )
    if learn and group.get("differentiable"):
        raise ValueError(
            "differentiable=True needs learn=(): for derivatives through many steps "
            "there is raymeta.hypergradient"
        )


def require_closure(closure: Any) -> None:
    """Raise ValueError unless it is a function, or None."""
    if closure is not None and not callable(closure):
        raise ValueError(
            "step needs a function as closure, or nothing, but got "
            f"{said(closure)}: call loss.backward() first, then step()"
        )


def warn_of_rates(groups: Sequence[Mapping[str, Any]]) -> bool:
    """Say which rates were set from outside, not by a scheduler; whether any was."""
    for g, group in enumerate(groups):
        start = group["start"].get("lr")
        if start is None or "initial_lr" in group or float(group["lr"]) == start:
            continue
        factor = float(group["lr"]) / start
        warnings.warn(
            f"lr of group {g} was set from {start:g} to {float(group['lr']):g} from "
            f"outside: steps take {factor:g} times what is learnt; where that is not "
            "meant, leave group['lr'] alone, or lr out of learn",
            stacklevel=4,
        )
        return True
    return False


def require_gradients(groups: Sequence[Mapping[str, Any]], *, warned: bool) -> bool:
    """Check what is about to be descended along; say once what has no gradient.

    Returns:
        Whether something had none.

    Raises:
        ValueError: nothing has a gradient; a sparse one.
    """
    missing, found = [], False
    for g, group in enumerate(groups):
        for i, p in enumerate(group["params"]):
            if p.grad is None:
                missing += [_name(group, g, i)] if p.requires_grad else []
                continue
            found = True
            if p.grad.is_sparse and group["learn"]:
                raise ValueError(
                    f"{_name(group, g, i)} has a sparse gradient, which hypergradients "
                    "do not take: use sparse=False in its embedding, or give it a "
                    "group with learn=()"
                )
    if not found:
        raise ValueError(
            f"step needs gradients, but none of {len(missing)} parameters has one: "
            "call loss.backward() first"
        )
    if missing and not warned:
        warnings.warn(
            f"no gradient for {said(missing)}: they stay as they are, and nothing is "
            "learnt from them; leave them out of params if that is meant",
            stacklevel=4,
        )
    return bool(missing)


def require_same_rule(
    state: Mapping[str, Any], defaults: Mapping[str, Any], rule: str
) -> None:
    """Raise ValueError unless a state is one of the same rule."""
    saved = state.get("param_groups") if isinstance(state, Mapping) else None
    if not saved:
        raise ValueError(
            f"{rule} needs what state_dict() gave, but got {said(type(state).__name__)}"
            " without param_groups"
        )
    missing = [name for name in defaults if name not in {*saved[0], *FLAGS}]
    if missing:
        raise ValueError(
            f"the state is of another optimizer than {rule}: it has no "
            f"{', '.join(missing)}; load it into the class that saved it"
        )


def _name(group: Mapping[str, Any], g: int, i: int) -> str:
    names = group.get("param_names")
    return repr(names[i]) if names else f"parameter {i} of group {g}"
