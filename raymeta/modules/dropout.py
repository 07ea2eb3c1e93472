"""Dropout whose rate can be learned."""

import torch
from torch import Tensor, nn

from raymeta.autograd.stop_gradient import constant


class ConcreteDropout(nn.Module):
    r"""Dropout with a rate p that has a derivative: masks relaxed by the Concrete.

    $$ \tilde z = \sigma\Big( \frac{1}{\tau} \big( \log p - \log(1 - p) + \log u
       - \log(1 - u) \big) \Big),\qquad y = x \, \frac{1 - \tilde z}{1 - p},\qquad
       u \sim U(0, 1) $$

    The identity in evaluation mode. The rate is a buffer; `module_problem` takes it
    from λ by `frozen=lambda hparams: {"1.rate": hparams["dropout"]}`.

    A temperature of 0 is dropout itself, whose masks have no derivative: its rate is
    cut from the graph, and learned by `ES` or `PES`.

    Args:
        rate: p in (0, 1), as it is before λ replaces it.
        temperature: τ.

    Raises:
        ValueError: the rate is outside (0, 1), the temperature negative.

    Source: Gal, Hron & Kendall 2017, eq. 5; their τ is 0.1.
    """

    rate: Tensor

    def __init__(self, rate: float = 0.5, temperature: float = 0.1) -> None:
        super().__init__()
        if not (0 < rate < 1 and temperature >= 0):
            raise ValueError(
                "ConcreteDropout needs 0 < rate < 1 and temperature >= 0, but got "
                f"rate={rate}, temperature={temperature}"
            )
        self.temperature = temperature
        self.register_buffer("rate", torch.tensor(rate))

    def forward(self, x: Tensor) -> Tensor:
        """Shape of x."""
        if not self.training:
            return x
        # Uniform numbers of half the width would often be 1.
        wide = torch.promote_types(x.dtype, torch.float32)
        p, u = self.rate.to(wide), torch.rand_like(x, dtype=wide)
        if self.temperature == 0:
            p = constant(p)
            kept = (u >= p).to(wide)
        else:
            kept = torch.sigmoid(-(p.logit() + u.logit()) / self.temperature)
        return x * (kept / (1 - p)).to(x.dtype)

    def extra_repr(self) -> str:
        """The temperature; the rate may be replaced."""
        return f"temperature={self.temperature}"
