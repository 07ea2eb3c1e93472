"""Muon that learns its hyperparameters."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymeta.online.base import Learning
from raymeta.online.rule import Entry, Group
from raymeta.optim.muon import learning_rate_ratio, newton_schulz


class Muon(Learning, torch.optim.Muon):
    r"""Muon of `torch.optim` that learns α, μ or λ, for matrices.

    $$ v \leftarrow \mu v + (1-\mu) g,\quad
       w \leftarrow w - \alpha\lambda w - \alpha\, r\, \mathrm{NS}(v) $$

    with (1 - μ) g + μ v in place of v for Nesterov, NS the Newton-Schulz iteration and
    r the factor of `adjust_lr_fn`. `learn` takes lr, weight_decay and momentum, the
    last by forward mode through the iteration; see `Learning` for the arguments that
    all rules share.
    """

    RULE = torch.optim.Muon
    LEARNABLE: ClassVar[tuple[str, ...]] = ("lr", "weight_decay", "momentum")

    def _decoupled(self, group: Group) -> bool:
        return True

    def _before(self, entry: Entry, p: Tensor) -> Any:
        v = self.state[p].get("momentum_buffer")
        learns = "momentum" in entry.group["learn"]
        if learns:
            v = torch.zeros_like(p) if v is None else v.clone()
        return v if learns else None

    def _after(self, entry: Entry, p: Tensor, before: Any) -> None:
        group, state, g = entry.group, self.state[p], p.grad
        assert g is not None
        momentum, v = entry.values["momentum"], state["momentum_buffer"]
        nesterov = group["nesterov"]
        x = g.lerp(v, momentum) if nesterov else v
        ns = partial(
            newton_schulz,
            coefficients=group["ns_coefficients"],
            steps=group["ns_steps"],
            eps=group["eps"],
        )
        state["direction"] = ns(x.bfloat16())
        if before is None:
            return
        dx = before - g
        if nesterov:  # x = (1 - μ) g + μ v
            dx = v - g + momentum * dx
        # Half precision is enough for the step, but not for how it changes.
        do = torch.func.jvp(ns, (x.float(),), (dx.float(),))[1]
        r = learning_rate_ratio(group["adjust_lr_fn"], p.shape)
        state["d_momentum"] = do.to(p.dtype) * r

    def _direction(self, entry: Entry, p: Tensor) -> Tensor:
        r = learning_rate_ratio(entry.group["adjust_lr_fn"], p.shape)
        return self.state[p]["direction"].to(p.dtype) * r
