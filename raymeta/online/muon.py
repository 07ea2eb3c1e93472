"""Muon that learns its hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymeta.online.base import Learning
from raymeta.online.rule import Entry, Group


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
        ns = newton_schulz(group["ns_coefficients"], group["ns_steps"], group["eps"])
        state["direction"] = ns(x.bfloat16())
        if before is None:
            return
        dx = before - g
        if nesterov:  # x = (1 - μ) g + μ v
            dx = v - g + momentum * dx
        # Half precision is enough for the step, but not for how it changes.
        do = torch.func.jvp(ns, (x.float(),), (dx.float(),))[1]
        r = _ratio(group["adjust_lr_fn"], p.shape)
        state["d_momentum"] = do.to(p.dtype) * r

    def _direction(self, entry: Entry, p: Tensor) -> Tensor:
        r = _ratio(entry.group["adjust_lr_fn"], p.shape)
        return self.state[p]["direction"].to(p.dtype) * r


def newton_schulz(
    coefficients: tuple[float, float, float], steps: int, eps: float
) -> Callable[[Tensor], Tensor]:
    """The iteration X ← a X + (b A + c A²) X with A = X Xᵀ, from X / ‖X‖."""
    a, b, c = coefficients

    def iterate(x: Tensor) -> Tensor:
        tall = x.size(0) > x.size(1)
        x = x.T if tall else x
        x = x / x.norm().clamp(min=eps)
        for _ in range(steps):
            gram = x @ x.T
            x = torch.addmm(
                x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a
            )
        return x.T if tall else x

    return iterate


def _ratio(adjust: str | None, shape: torch.Size) -> float:
    rows, columns = shape
    if adjust == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns))
