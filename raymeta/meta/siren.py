"""SIREN: networks of sines, modulated by a latent vector."""

import math

import torch
from torch import Tensor, nn

from raymeta.errors import require_arguments


class Siren(nn.Module):
    r"""A function of coordinates, one of a family that a latent vector φ selects.

    $$ h_{l+1} = \sin(\omega_0 (W_l h_l + b_l + s_l)),\qquad s = M \phi,\qquad
       y = W_L h_L + b_L $$

    Args:
        inputs: coordinates of a point.
        outputs: values at a point.
        width: units of a hidden layer.
        depth: L, hidden layers.
        latent: length of φ.
        frequency: ω_0.

    Raises:
        ValueError: a size below 1; a frequency that is not positive.

    Source: Sitzmann et al. 2020, eq. 4 and section 3.2 (initial weights); the shifts
    s: Dupont et al. 2022, section 3.1.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = 64,
        depth: int = 3,
        latent: int = 64,
        frequency: float = 30.0,
    ) -> None:
        super().__init__()
        sizes = {"inputs": inputs, "outputs": outputs, "width": width, "depth": depth}
        sizes |= {"latent": latent}
        require_arguments(Siren.__init__, **sizes, frequency=frequency)
        if min(sizes.values()) < 1 or not frequency > 0:
            raise ValueError(
                "Siren needs inputs, outputs, width, depth and latent >= 1 and a "
                f"frequency > 0, but got {(*sizes.values(), frequency)}"
            )
        self.latent, self.frequency = latent, frequency
        fan_in = [inputs, *[width] * (depth - 1)]
        layers = [nn.Linear(n, width) for n in fan_in]
        self.hidden = nn.ModuleList(layers)
        self.out = nn.Linear(width, outputs)
        self.modulation = nn.Linear(latent, depth * width, bias=False)
        with torch.no_grad():
            for n, layer in zip(fan_in, layers, strict=True):
                bound = math.sqrt(6 / n) / frequency
                nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.uniform_(layers[0].weight, -1 / inputs, 1 / inputs)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Values at points.

        Args:
            x: shape (n, inputs).
            latent: φ, shape (latent,).

        Returns:
            Shape (n, outputs).
        """
        shifts = self.modulation(latent).view(len(self.hidden), -1)
        for layer, shift in zip(self.hidden, shifts, strict=True):
            x = torch.sin(self.frequency * (layer(x) + shift))
        return self.out(x)
