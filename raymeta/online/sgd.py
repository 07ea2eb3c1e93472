"""Stochastic gradient descent that learns its hyperparameters."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from raymeta.online.base import Learning
from raymeta.online.rule import Entry, Group
from raymeta.online.tensors import plus, real


class SGD(Learning, torch.optim.SGD):
    r"""SGD of `torch.optim` that learns α, μ, τ or λ.

    $$ g \leftarrow g + \lambda w,\quad v \leftarrow \mu v + (1-\tau) g,\quad
       w \leftarrow w - \alpha v $$

    with g + μ v in place of v for Nesterov. See `Learning` for the arguments that all
    rules share: `learn` takes lr, momentum, dampening and weight_decay.
    """

    RULE = torch.optim.SGD
    LEARNABLE: ClassVar[tuple[str, ...]] = (
        "lr",
        "momentum",
        "dampening",
        "weight_decay",
    )

    def _decoupled(self, group: Group) -> bool:
        return False

    def _before(self, entry: Entry, p: Tensor) -> Any:
        """Gradient with weight decay, weights and buffer, as far as they are needed."""
        learn, nesterov = entry.group["learn"], entry.group["nesterov"]
        assert p.grad is not None
        w = v = None
        g = -p.grad if entry.group["maximize"] else p.grad
        g = plus(g, self._value(entry, "weight_decay", p), p)
        if "weight_decay" in learn:
            w = p.clone()
        if "momentum" in learn:
            v = self.state[p].get("momentum_buffer")
            v = None if v is None else v.clone()
        plain = nesterov or not entry.values["momentum"]
        return g if plain or "dampening" in learn else None, w, v

    def _after(self, entry: Entry, p: Tensor, before: Any) -> None:
        g, w, v = before
        learn, nesterov = entry.group["learn"], entry.group["nesterov"]
        state, momentum = self.state[p], entry.values["momentum"]
        damped = 1.0
        if momentum and "t" in state:
            damped = 1 - entry.values["dampening"]
        through = (1 + momentum * damped) if nesterov else damped
        if "weight_decay" in learn:
            state["d_weight_decay"] = w.mul_(through)
        if "momentum" in learn:
            moved = torch.zeros_like(p) if v is None else v
            if nesterov:
                moved = moved.mul_(momentum).add_(state["momentum_buffer"])
            state["d_momentum"] = moved
        if "dampening" in learn:
            acts = "t" in state
            moved = g.mul(-momentum if nesterov else -1.0)
            state["d_dampening"] = moved if acts else torch.zeros_like(p)
        if nesterov:
            state["direction"] = g.add(state["momentum_buffer"], alpha=momentum)
        elif not momentum:
            state["direction"] = g.clone()
        state["t"] = state.get("t", 0) + 1

    def _direction(self, entry: Entry, p: Tensor) -> Tensor:
        state = self.state[p]
        return real(state.get("direction", state.get("momentum_buffer")))
