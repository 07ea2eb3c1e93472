"""Adam with clipped gradients, for hypergradients while training goes on."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

#: Length of a hyper-step in each coordinate, while training goes on.
HYPER_LR = 0.2


@dataclass
class ClippedAdam:
    r"""Adam whose gradient may exceed its running scale by a bounded factor only.

    $$ g_i \leftarrow \operatorname{clip}(g_i, \pm c \sqrt{\hat v_i}),\quad
       m \leftarrow \beta_1 m + (1-\beta_1) g,\quad
       v \leftarrow \beta_2 v + (1-\beta_2) g^2,\quad
       x \leftarrow x - \eta\, \hat m / \sqrt{\hat v} $$

    One step into divergence has a gradient larger by orders of magnitude: unclipped, it
    would freeze v, and with it x, for a thousand steps.

    Attributes:
        lr: η, the length of a step in each coordinate; may be changed between steps.
        agreement: cosine, in [-1, 1], between the last gradient and the m before it,
            both divided by √v̂; 0 before the second step.

    Source: Kingma & Ba 2015, Algorithm 1.
    """

    lr: float
    agreement: float = field(default=0.0, init=False)
    _m: Tensor | None = field(default=None, init=False)
    _v: Tensor | None = field(default=None, init=False)
    _count: int = field(default=0, init=False)

    BETA1, BETA2, CLIP = 0.9, 0.99, 10.0

    def step(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The next x."""
        if self._m is None or self._v is None:
            self._m, self._v = torch.zeros_like(x), torch.zeros_like(x)
        else:
            scale = (self._v / (1 - self.BETA2**self._count)).sqrt() * self.CLIP
            clipped = gradient.clamp(-scale, scale)
            gradient = torch.where(scale > 0, clipped, gradient)
        self._count += 1
        before = self._m
        self._m = self.BETA1 * self._m + (1 - self.BETA1) * gradient
        self._v = self.BETA2 * self._v + (1 - self.BETA2) * gradient.square()
        m_hat = self._m / (1 - self.BETA1**self._count)
        v_hat = self._v / (1 - self.BETA2**self._count)
        moving = v_hat > 0
        inverse = torch.where(moving, v_hat, 1.0).rsqrt() * moving
        self.agreement = _cosine(gradient * inverse, before * inverse)
        return x - self.lr * m_hat * inverse


def _cosine(a: Tensor, b: Tensor) -> float:
    lengths = float(a.norm() * b.norm())
    return float(a @ b) / lengths if lengths else 0.0
