"""Adam with clipped gradients, for hypergradients while training goes on."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

#: Length of a hyper-step in each coordinate, while training goes on.
HYPER_LR = 0.2
#: A hyper-step that begins shorter than the longest grows to it by exp(GROW c) a step,
#: where c > 0 is the cosine of a gradient with those before.
GROW = 0.5


class AdamState(NamedTuple):
    """State of `ClippedAdam` between two steps.

    Attributes:
        lr: η, the length of the next step in each coordinate; may be replaced.
        agreement: cosine, in [-1, 1], between the last gradient and the m before it,
            both divided by √v̂; 0 before the second step. Shape () or (N,).
        m: first-moment estimate, of the shape of x.
        v: second-moment estimate, likewise.
        taken: how many steps were taken.
    """

    lr: float
    agreement: Tensor
    m: Tensor
    v: Tensor
    taken: int


@dataclass(frozen=True)
class ClippedAdam:
    r"""Adam whose gradient may exceed its running scale by a bounded factor only.

    $$ g_i \leftarrow \operatorname{clip}(g_i, \pm c \sqrt{\hat v_i}),\quad
       m \leftarrow \beta_1 m + (1-\beta_1) g,\quad
       v \leftarrow \beta_2 v + (1-\beta_2) g^2,\quad
       x \leftarrow x - \eta\, \hat m / \sqrt{\hat v} $$

    One step into divergence has a gradient larger by orders of magnitude: unclipped, it
    would freeze v, and with it x, for a thousand steps.

    With a longest step, η grows to it while gradients agree,

    $$ \eta \leftarrow
       \min(\eta\, e^{\max(0, \cos(g_t, m_{t-1})) / 2},\ \eta_{\max}) $$

    Attributes:
        lr: η of the first step.
        longest: η_max; None for a constant η.

    Source: Kingma & Ba 2015, Algorithm 1. That η grows by the agreement of gradients is
    the rule of Baydin et al. 2018, applied to η itself.
    """

    lr: float = HYPER_LR
    longest: float | None = None

    BETA1, BETA2, CLIP = 0.9, 0.99, 10.0

    def init(self, x: Tensor) -> AdamState:
        """The state before the first step from x, shape (n,), or (N, n) for N runs."""
        still = torch.zeros_like(x)
        return AdamState(self.lr, still.new_zeros(x.shape[:-1]), still, still, 0)

    def update(
        self, gradient: Tensor, state: AdamState, x: Tensor
    ) -> tuple[Tensor, AdamState]:
        """The next x, and the next state."""
        lr, _, before, v, taken = state
        if taken:
            scale = (v / (1 - self.BETA2**taken)).sqrt() * self.CLIP
            clipped = gradient.clamp(-scale, scale)
            gradient = torch.where(scale > 0, clipped, gradient)
        taken += 1
        m = self.BETA1 * before + (1 - self.BETA1) * gradient
        v = self.BETA2 * v + (1 - self.BETA2) * gradient.square()
        m_hat = m / (1 - self.BETA1**taken)
        v_hat = v / (1 - self.BETA2**taken)
        moving = v_hat > 0
        inverse = torch.where(moving, v_hat, 1.0).rsqrt() * moving
        x = x - lr * m_hat * inverse
        agreement = _cosine(gradient * inverse, before * inverse)
        if self.longest is not None:
            longer = lr * math.exp(GROW * max(float(agreement), 0.0))
            lr = min(longer, self.longest)
        return x, AdamState(lr, agreement, m, v, taken)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    lengths = a.norm(dim=-1) * b.norm(dim=-1)
    cosine = torch.linalg.vecdot(a, b) / lengths
    return torch.where(lengths > 0, cosine, 0.0)
