"""The hyper-step: how far a coordinate moves along its hypergradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raymeta.online.coordinates import Coordinate

#: η, the length of a hyper-step in log or logit coordinates.
HYPER_LR = 0.1
BETA1, BETA2 = 0.5, 0.95
#: A hypergradient counts as this many times its running scale at most.
CLIP = 3.0
#: κ of a learning rate: looking one step ahead it settles for too small a one (Wu et
#: al. 2018), and where gradients are noise alone it would stay where it is.
UPWARD = 0.1
#: What a tensor or weight walks on its own, as a part of what its group walks, and how
#: far it goes from its group.
OWN, FARTHEST = 0.3, 3.0


def still(c: Coordinate) -> Coordinate:
    """The coordinate before its first hyper-step."""
    return {**c, "m": 0.0, "v": 0.0, "taken": 0}


def apart() -> Coordinate:
    """A tensor's own deviation from its group's coordinate."""
    return still({"kind": "identity", "low": -FARTHEST, "high": FARTHEST, "u": 0.0})


def scale(c: Coordinate) -> float:
    """The root mean square of the hypergradients so far; 0 before the first."""
    return math.sqrt(c["v"] / (1 - BETA2 ** c["taken"])) if c["taken"] else 0.0


def walk(c: Coordinate, gradient: float, lr: float, upward: float = 0.0) -> bool:
    r"""One step of Adam on a hypergradient γ clipped to its running scale.

    $$ m \leftarrow \beta_1 m + (1-\beta_1)\gamma,\quad
       v \leftarrow \beta_2 v + (1-\beta_2)\gamma^2,\quad
       u \leftarrow u - \eta\,(\hat m/\sqrt{\hat v} - \kappa) $$

    Args:
        c: the coordinate, in place.
        gradient: γ.
        lr: η.
        upward: κ.

    Returns:
        Whether γ was clipped.
    """
    limit = CLIP * scale(c)
    clipped = 0 < limit < abs(gradient)
    if clipped:
        gradient = math.copysign(limit, gradient)
    c["taken"] += 1
    c["m"] = BETA1 * c["m"] + (1 - BETA1) * gradient
    c["v"] = BETA2 * c["v"] + (1 - BETA2) * gradient * gradient
    rms = scale(c)
    if rms > 0:
        step = lr * (c["m"] / (1 - BETA1 ** c["taken"]) / rms - upward)
        c["u"] = min(max(c["u"] - step, c["low"]), c["high"])
    return clipped


def apart_each(x: Tensor, kind: str) -> Tensor:
    """Weights' own deviations from their group's coordinate: in log, as factors."""
    return torch.ones_like(x) if kind == "log" else torch.zeros_like(x)


def walk_each(own: Tensor, gradient: Tensor, lr: float, kind: str) -> None:
    r"""The same for each weight's deviation, scaled by all of its tensor.

    A factor $e^{o}$ takes the step $o \leftarrow o - 2x$ as
    $e^{o} \leftarrow e^{o} (1 - x)/(1 + x)$, to $x^3$. In place of both tensors.
    """
    rms = gradient.norm() / gradient.numel() ** 0.5
    scaled = rms.clamp(min=torch.finfo(gradient.dtype).tiny)
    gradient.div_(scaled).clamp_(-CLIP, CLIP)
    if kind != "log":
        own.sub_(gradient, alpha=lr * OWN).clamp_(-FARTHEST, FARTHEST)
        return
    x = gradient.mul_(lr * OWN / 2)
    own.addcmul_(own, x, value=-1).div_(x.add_(1))
    own.clamp_(math.exp(-FARTHEST), math.exp(FARTHEST))
