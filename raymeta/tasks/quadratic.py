"""Gradient descent on a quadratic, where every hypergradient has a closed form."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raymeta.errors import require_types
from raymeta.optim import sgd
from raymeta.problem import BilevelProblem, descent
from raymeta.space import Positive, Space, Unit
from raymeta.types import Tensors


@dataclass(frozen=True, kw_only=True)
class Quadratic:
    r"""Learn the learning rate and momentum of heavy-ball descent on a quadratic.

    $$ f(w) = \tfrac12 \sum_i h_i w_i^2,\quad v \leftarrow \mu v + \nabla f(w),\quad
       w \leftarrow w - \alpha v $$

    Both the training and the outer loss are f.

    Attributes:
        eigenvalues: h, the curvatures.
        initial: w_0; uniform in [0.5, 1.5] by seed if None.
        horizon: T, training steps of a full run.
        budget: gradient evaluations of a comparison; 50 full runs by default.
    """

    eigenvalues: tuple[float, ...] = (1.0, 4.0, 10.0)
    initial: tuple[float, ...] | None = None
    horizon: int = 20
    budget: float = 1000.0
    name: str = "quadratic"
    source: ClassVar[str] = "a quadratic of three curvatures"
    licence: ClassVar[str] = "none: no data"

    def __post_init__(self) -> None:
        require_types(self)
        if self.initial is not None and len(self.initial) != len(self.eigenvalues):
            raise ValueError(
                "Quadratic needs one initial value per eigenvalue, but got "
                f"{len(self.initial)} for {len(self.eigenvalues)}"
            )

    @property
    def space(self) -> Space:
        """Starts at the centre of what black-box search samples."""
        return Space(
            lr=Positive(10**-1.75, low=1e-3, high=10**-0.5),
            momentum=Unit(0.495, low=0.0, high=0.99),
        )

    def start(self, seed: int) -> Tensor:
        """w_0, shape (number of eigenvalues,)."""
        if self.initial is not None:
            return torch.tensor(self.initial)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.rand(
            len(self.eigenvalues), generator=generator, dtype=torch.float64
        )
        return (0.5 + noise).to(torch.get_default_dtype())

    def sample(self, seed: int) -> BilevelProblem:
        """The quadratic, from the start that the seed gives."""
        h, start = torch.tensor(self.eigenvalues), self.start(seed)

        def loss(params: Tensors) -> Tensor:
            return 0.5 * (h * params["w"].square()).sum()

        return descent(
            init_params=lambda hparams: {"w": start.clone()},
            inner_loss=lambda params, hparams, batch: loss(params),
            outer_loss=lambda params, hparams: loss(params),
            optimizer=lambda hparams: sgd(hparams["lr"], momentum=hparams["momentum"]),
            metrics=lambda params, hparams: {"test_loss": loss(params)},
        )

    def closed_form(
        self, lr: float, momentum: float, steps: int, start: Tensor
    ) -> tuple[float, dict[str, float]]:
        r"""f(w_T) and its derivatives, from powers of a 2x2 matrix per eigenvalue.

        $$ \begin{pmatrix} w \\ v \end{pmatrix}_T = M^T
           \begin{pmatrix} w_0 \\ 0 \end{pmatrix},\quad
           M = \begin{pmatrix} 1 - \alpha h & -\alpha\mu \\ h & \mu \end{pmatrix},\quad
           dM^T = \sum_k M^k\, dM\, M^{T-1-k} $$

        Args:
            lr: α.
            momentum: μ.
            steps: T.
            start: w_0, shape (number of eigenvalues,).

        Returns:
            f(w_T), and {"lr": df/dα, "momentum": df/dμ}, in float64.
        """
        value, grads = 0.0, {"lr": 0.0, "momentum": 0.0}
        for h, w0 in zip(self.eigenvalues, start.tolist(), strict=True):
            matrix = _double([[1 - lr * h, -lr * momentum], [h, momentum]])
            slopes = {
                "lr": _double([[-h, -momentum], [0.0, 0.0]]),
                "momentum": _double([[0.0, -lr], [0.0, 1.0]]),
            }
            powers = [torch.eye(2, dtype=torch.float64)]
            for _ in range(steps):
                powers.append(powers[-1] @ matrix)
            w = float(powers[steps][0, 0]) * w0
            value += 0.5 * h * w**2
            for name, slope in slopes.items():
                d_power = sum(
                    powers[k] @ slope @ powers[steps - 1 - k] for k in range(steps)
                )
                assert isinstance(d_power, Tensor)
                grads[name] += h * w * float(d_power[0, 0]) * w0
        return value, grads


def _double(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)
