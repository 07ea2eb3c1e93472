"""What is learnt, as a coordinate between bounds: log λ, logit λ, or λ itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from raymeta.errors import said, unknown_name
from raymeta.space import Positive, Real, Space, Unit

#: A coordinate u with its bounds, and what its walk keeps (`raymeta.online.walk`):
#: plain numbers and strings, which a `state_dict` holds.
Coordinate = dict[str, Any]

#: The farthest that a learning rate or weight decay goes from its start, as a factor.
FARTHEST = 1e8
#: The largest momentum, dampening and β.
LARGEST = 0.9999
#: Names that people give what is called otherwise here.
MEANT = {"learning_rate": "lr", "wd": "weight_decay", "betas": "beta1"}


def require_names(rule: str, names: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        ValueError: one that the rule does not have.
    """
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, Iterable) or isinstance(names, Tensor):
        raise ValueError(
            f"learn needs names, of {', '.join(known)}, but got {said(names)}: () "
            "learns nothing"
        )
    names = tuple(names)
    for name in names:
        if name not in known:
            meant = MEANT.get(name) if isinstance(name, str) else None
            raise unknown_name(
                f"hyperparameter of raymeta.online.{rule}",
                name,
                known,
                meant if meant in known else None,
            )
    return tuple(dict.fromkeys(names))


def starting(name: str, value: float, space: Space | None) -> Coordinate:
    """The coordinate of a hyperparameter that starts at a value.

    Raises:
        ValueError: a start on the end of a log or logit coordinate, or outside its
            bounds; a domain that has no derivative.
    """
    if not math.isfinite(value):
        raise ValueError(f"{name} needs a finite start to be learnt, but got {value}")
    domain = space[name] if space is not None and name in space else None
    if domain is None:
        positive = name in ("lr", "weight_decay")
        kind: type[Positive | Unit | Real] = Positive if positive else Unit
        low, high = (value / FARTHEST, value * FARTHEST) if positive else (0.0, LARGEST)
    elif isinstance(domain, Positive | Unit | Real):
        kind, low, high = type(domain), domain.low, domain.high
    else:
        raise ValueError(
            f"space needs Positive, Unit or Real for {name}, but got {said(domain)}: "
            "choices have no derivative"
        )
    if kind is not Real and not value > 0:
        start = 1e-4 if kind is Positive else 0.9
        raise ValueError(
            f"{name} needs a start above 0 to be learnt in its "
            f"{'log' if kind is Positive else 'logit'} coordinate, but got {value}: "
            f"give {name}={start}, or space=raymeta.Space({name}=raymeta.Real({value}, "
            "low=0.0, high=1.0))"
        )
    kind(value, low=low, high=high)  # checks the start
    name = "identity"
    if kind is not Real:
        name = "log" if kind is Positive else "logit"
    reach = {"log": Positive.REACH, "logit": Unit.REACH, "identity": math.inf}[name]
    ends = [_coordinate(name, bound, reach) for bound in (low, high)]
    u = _coordinate(name, value, reach)
    return {"kind": name, "low": ends[0], "high": ends[1], "u": u}


def natural(c: Coordinate, u: float | Tensor) -> Any:
    """The natural value at a coordinate within the bounds of c; tensors in place."""
    if isinstance(u, Tensor):
        u.clamp_(c["low"], c["high"])
        if c["kind"] == "identity":
            return u
        return u.exp_() if c["kind"] == "log" else u.sigmoid_()
    u = min(max(u, c["low"]), c["high"])
    if c["kind"] == "log":
        return math.exp(u)
    return 1 / (1 + math.exp(-u)) if c["kind"] == "logit" else u


def slope(c: Coordinate, value: Any) -> Any:
    """dλ/du at a natural value."""
    if c["kind"] == "log":
        return value
    return value * (1 - value) if c["kind"] == "logit" else 1.0


def named(group: Mapping[str, Any], name: str) -> float:
    """A setting of a group; `beta1` and `beta2` stand in its `betas`."""
    value = group["betas"][int(name[-1]) - 1] if "beta" in name else group[name]
    return float(value)


def settings(group: Mapping[str, Any], values: Mapping[str, float]) -> dict[str, Any]:
    """Values by name as the group has them: betas together, tensors as tensors."""
    given: dict[str, Any] = {n: v for n, v in values.items() if "beta" not in n}
    if len(given) < len(values):
        first, second = group["betas"]
        given["betas"] = (values.get("beta1", first), values.get("beta2", second))
    for name, value in given.items():
        if isinstance(group[name], Tensor):
            given[name] = torch.full_like(group[name], value)
    return given


def _coordinate(kind: str, value: float, reach: float) -> float:
    if kind == "identity":
        return value
    if value <= 0:
        return -reach
    if math.isinf(value) or (kind == "logit" and value >= 1):
        return reach
    u = math.log(value) if kind == "log" else math.log(value / (1 - value))
    return min(max(u, -reach), reach)
