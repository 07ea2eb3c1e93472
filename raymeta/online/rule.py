"""The derivative of a step with respect to its hyperparameters."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymeta.online.coordinates import natural, slope
from raymeta.online.tensors import Scratch, plus, real
from raymeta.online.walk import FARTHEST

#: A group of parameters, as `torch.optim` has it.
Group = dict[str, Any]
#: ∂w/∂λ of a tensor of weights: a tensor, and what multiplies it.
Effect = tuple[Tensor, Any]
#: What a decoupled weight decay takes away in one step, α λ_w, at most.
MOST = 0.5
#: Places of `Scratch`.
DIRECTION, RATE, DECAY = range(3)


def schedule_factor(group: Group) -> float:
    """What a scheduler multiplies the learning rate by; 1 where it is not learnt."""
    return float(group["lr"]) / group["start"]["lr"] if "lr" in group["learn"] else 1.0


class Entry:
    """Parameters of one group that take a step with the same settings.

    Attributes:
        group: their group.
        index: their places in it.
        values: λ by name, as numbers; without what single weights have of their own.
        factor: what a scheduler multiplies the learning rate by.
    """

    def __init__(
        self, group: Group, index: list[int], values: dict[str, float], factor: float
    ) -> None:
        self.group, self.index = group, index
        self.values, self.factor = values, factor
        self.params: list[Tensor] = [group["params"][i] for i in index]

    def record(self) -> dict[str, Any]:
        """All but the group: plain numbers, for a `state_dict`."""
        return {"index": self.index, "values": self.values, "factor": self.factor}


class Rule(torch.optim.Optimizer):
    """What an update rule says of its steps, of which `torch.optim` takes them.

    Attributes:
        RULE: the class of `torch.optim`.
        LEARNABLE: the names of what it can learn.
    """

    RULE: ClassVar[type[torch.optim.Optimizer]]
    LEARNABLE: ClassVar[tuple[str, ...]]
    _scratch: Scratch
    #: Whether `_direction` is a new tensor, which may be written over.
    FRESH: ClassVar[bool] = False

    def _value(self, entry: Entry, name: str, p: Tensor) -> Any:
        """λ of a parameter: a number, or a tensor where each weight has its own."""
        own = self.state[p].get(f"own_{name}")
        if own is None:
            return entry.values[name]
        c = entry.group["learned"][name]
        factor = entry.factor if name == "lr" else 1.0
        inside = c["low"] + FARTHEST <= c["u"] <= c["high"] - FARTHEST
        if c["kind"] == "log" and inside:
            out = self._scratch.like(own, RATE if name == "lr" else DECAY)
            value = torch.mul(own, math.exp(c["u"]) * factor, out=out)
        elif c["kind"] == "log":
            value = (own * math.exp(c["u"])).clamp_(
                *map(math.exp, (c["low"], c["high"]))
            )
            value.mul_(factor)
        else:
            value = natural(c, own + c["u"])
            if factor != 1:
                value.mul_(factor)
        if name != "lr":
            return value
        decay = self._value(entry, "weight_decay", p)
        if isinstance(decay, Tensor) and self._decoupled(entry.group):
            return torch.minimum(value, MOST / decay)
        if isinstance(decay, Tensor):
            return value
        most = self._most(entry.group, decay)
        beyond = math.exp(c["u"] + FARTHEST) * factor if inside else math.inf
        return value.clamp_(max=most) if beyond > most else value

    def _most(self, group: Group, decay: float) -> float:
        """The largest learning rate beside a weight decay."""
        return MOST / decay if decay and self._decoupled(group) else math.inf

    def _before(self, entry: Entry, p: Tensor) -> Any:
        """What `_after` needs of the time before the step."""
        return None

    def _after(self, entry: Entry, p: Tensor, before: Any) -> None:
        """Keep what the derivatives of the step need that memory does not have."""

    def _direction(self, entry: Entry, p: Tensor) -> Tensor:
        """D of the step w ← w − α d (− α λ_w w where weight decay is decoupled)."""
        raise NotImplementedError

    def _decoupled(self, group: Group) -> bool:
        """Whether weight decay acts on the weights beside the gradient."""
        raise NotImplementedError

    def _decayed(self, d: Tensor, decay: Any, w: Tensor) -> Tensor:
        """D + λ_w w, in place of d where that may be written over."""
        if self.FRESH and not isinstance(decay, Tensor):
            return d.add_(w, alpha=decay)
        return plus(d, decay, w)

    def _effects(self, entry: Entry, p: Tensor) -> dict[str, Effect]:
        """∂w_{t+1}/∂λ of what is learnt."""
        lr, decay = (self._value(entry, n, p) for n in ("lr", "weight_decay"))
        d, w = self._direction(entry, p), real(p)
        decoupled = self._decoupled(entry.group)
        found: dict[str, Effect] = {}
        for name in entry.group["learn"]:
            # In w_{t+1}: w_t = (w_{t+1} + α d) / (1 − α λ_w).
            if name == "lr" and decoupled:
                again = "weight_decay" in entry.group["learn"]
                moved = plus(d, decay, w) if again else self._decayed(d, decay, w)
                found[name] = moved, -1 / (1 - lr * decay)
            elif name == "lr":
                found[name] = d, -1.0
            elif name == "weight_decay" and decoupled:
                found[name] = plus(w, lr, d), -lr / (1 - lr * decay)
            else:
                found[name] = self.state[p][f"d_{name}"], -lr
        return found

    def _coordinate_effects(self, entry: Entry, p: Tensor) -> dict[str, Effect]:
        """∂w/∂u of what is learnt, in coordinates."""
        learned = entry.group["learned"]
        alone = "own_lr" in self.state[p] and entry.group["learn"] == ("lr",)
        if alone and learned["lr"]["kind"] == "log":
            return {"lr": self._rate_effect(entry, p)}
        return {
            n: (effect, factor * slope(learned[n], self._value(entry, n, p)))
            for n, (effect, factor) in self._effects(entry, p).items()
        }

    def _rate_effect(self, entry: Entry, p: Tensor) -> Effect:
        """∂w/∂u of the logarithms of weights' own rates alone, in few passes."""
        d, w, lr = self._direction(entry, p), real(p), self._value(entry, "lr", p)
        decay = entry.values["weight_decay"]
        if not (decay and self._decoupled(entry.group)):
            return d, lr.neg_()
        moved = self._decayed(d, decay, w)
        left = torch.mul(lr, decay, out=self._scratch.like(lr, DECAY)).sub_(1)
        return moved, lr.div_(left)

    def _follow(self, entry: Entry, p: Tensor) -> None:
        """H ← γ (1 − α λ_w) h + ∂w/∂u."""
        gamma, state = entry.group["trace"], self.state[p]
        if self._decoupled(entry.group):
            lr, decay = (self._value(entry, n, p) for n in ("lr", "weight_decay"))
            gamma = gamma * (1 - lr * decay)
        for name, (effect, factor) in self._coordinate_effects(entry, p).items():
            trace = state.setdefault(f"trace_{name}", torch.zeros_like(effect))
            trace.mul_(gamma).add_(effect * factor)

    def _followed(self, entry: Entry, p: Tensor) -> dict[str, Effect]:
        """∂w/∂u, or h with a trace."""
        if not entry.group["trace"]:
            return self._coordinate_effects(entry, p)
        return {n: (self.state[p][f"trace_{n}"], 1.0) for n in entry.group["learn"]}
