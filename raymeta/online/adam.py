"""Adam and AdamW that learn their hyperparameters."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from raymeta.online.base import Learning
from raymeta.online.rule import DIRECTION, Entry, Group
from raymeta.online.tensors import plus, real


class Adam(Learning, torch.optim.Adam):
    r"""Adam of `torch.optim` that learns α, β₁, β₂ or λ.

    $$ m \leftarrow \beta_1 m + (1-\beta_1) g,\quad
       v \leftarrow \beta_2 v + (1-\beta_2) g^2,\quad
       w \leftarrow w - \alpha\, \frac{m / (1-\beta_1^t)}
                                      {\sqrt{v / (1-\beta_2^t)} + \epsilon} $$

    with λ w in g, or, decoupled, in the step. See `Learning` for the arguments that all
    rules share: `learn` takes lr, weight_decay, beta1 and beta2.
    """

    RULE: ClassVar[type[torch.optim.Optimizer]] = torch.optim.Adam
    LEARNABLE: ClassVar[tuple[str, ...]] = ("lr", "weight_decay", "beta1", "beta2")
    FRESH = True

    def _decoupled(self, group: Group) -> bool:
        return group["decoupled_weight_decay"]

    def _before(self, entry: Entry, p: Tensor) -> Any:
        """G with weight decay, and the weights, as far as they are needed."""
        learn, coupled = entry.group["learn"], not self._decoupled(entry.group)
        through_decay = coupled and "weight_decay" in learn
        if not through_decay and not {"beta1", "beta2"} & set(learn):
            return None
        assert p.grad is not None
        g = real(-p.grad if entry.group["maximize"] else p.grad)
        if coupled:
            g = plus(g, self._value(entry, "weight_decay", p), real(p))
        return g, real(p).clone() if through_decay else None

    def _after(self, entry: Entry, p: Tensor, before: Any) -> None:
        if before is None:
            return
        g, w = before
        state, learn = self.state[p], entry.group["learn"]
        beta1, beta2 = entry.values["beta1"], entry.values["beta2"]
        t, m, v = float(state["step"]), real(state["exp_avg"]), self._second(entry, p)
        left1, left2 = 1 - beta1**t, 1 - beta2**t
        root = (v / left2).sqrt_()
        denominator = root + entry.group["eps"]
        # ∂d/∂v, through the root; 0 where v is 0, and where AMSGrad holds an older v.
        through = -(m / left1) / denominator.square() / (2 * left2 * root)
        through = torch.where(root > 0, through, 0.0)
        held: float | Tensor = 1.0
        if entry.group["amsgrad"]:
            held = (v == real(state["exp_avg_sq"])).to(v.dtype)
        if w is not None:
            dg = (1 - beta1) / left1 / denominator
            dg = dg + held * through * 2 * (1 - beta2) * g
            state["d_weight_decay"] = dg * w
        if "beta1" in learn:
            # m_{t-1} - g = (m_t - g) / β₁.
            dm = (m - g) / beta1 / left1 + m * (t * beta1 ** (t - 1) / left1**2)
            state["d_beta1"] = dm / denominator
        if "beta2" in learn:
            dv = held * (real(state["exp_avg_sq"]) - g.square()) / beta2
            dv = dv + v * (t * beta2 ** (t - 1) / left2)
            state["d_beta2"] = through * dv

    def _second(self, entry: Entry, p: Tensor) -> Tensor:
        kept = "max_exp_avg_sq" if entry.group["amsgrad"] else "exp_avg_sq"
        return real(self.state[p][kept])

    def _direction(self, entry: Entry, p: Tensor) -> Tensor:
        state, (beta1, beta2) = (
            self.state[p],
            (entry.values["beta1"], entry.values["beta2"]),
        )
        t = float(state["step"])
        v = self._second(entry, p)
        d = torch.sqrt(v, out=self._scratch.like(v, DIRECTION))
        left1, left2 = 1 - beta1**t, 1 - beta2**t
        # In one pass less: m / (√v / √left2 + ε) / left1.
        d.mul_(left1 / left2**0.5).add_(left1 * entry.group["eps"])
        return torch.div(real(state["exp_avg"]), d, out=d)


class AdamW(Adam, torch.optim.AdamW):
    """AdamW of `torch.optim`: `Adam` with decoupled weight decay, w ← w - α λ w."""

    RULE = torch.optim.AdamW
