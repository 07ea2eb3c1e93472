"""Stochastic gradient descent on an ill-conditioned quadratic."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raymeta.errors import require_types
from raymeta.modules import Noise
from raymeta.optim import Optimizer, sgd
from raymeta.problem import BilevelProblem, descent
from raymeta.space import Positive, Space, Unit
from raymeta.types import Batch, Hparams, Tensors


@dataclass(frozen=True, kw_only=True)
class NoisyQuadratic:
    r"""Learn a learning rate that decays, and the momentum, where gradients are noisy.

    $$ f(w) = \tfrac12 \sum_i h_i w_i^2,\quad
       v \leftarrow \mu v + h \odot w + \sigma \sqrt{h} \odot \xi_t,\quad
       w \leftarrow w - \alpha_t v,\quad
       \alpha_t = \alpha^{1 - t/(T-1)}\, \bar\alpha^{\,t/(T-1)} $$

    with curvatures h from 1 down to 1 / condition, equally spaced in log h, and
    ξ_t ~ N(0, 1), a function of (seed, t). The outer loss is the mean of f over
    independent runs with the same λ and start; as many further runs are held out. One
    step ahead a small learning rate always looks best, at the end of the run it is not:
    the short-horizon bias.

    Attributes:
        condition: the largest curvature over the smallest, at least 1.
        dimensions: dimensions of w, at least 2.
        noise: σ.
        runs: runs that the outer loss averages, and again as many held out.
        horizon: T, training steps of a full run, at least 2.
        budget: gradient evaluations of a comparison; 100 full runs by default.

    Raises:
        ValueError: a number below the least.

    Source: Wu et al. 2018, section 2 (the model, with noise of covariance σ² H).
    """

    condition: float = 1e4
    dimensions: int = 10
    noise: float = 1.0
    runs: int = 16
    horizon: int = 100
    budget: float = 10000.0
    name: str = "quadratic-noisy"
    source: ClassVar[str] = "Wu et al. 2018"
    licence: ClassVar[str] = "none: no data"

    def __post_init__(self) -> None:
        """Check the sizes."""
        require_types(self)
        least = {"condition": 1, "dimensions": 2, "runs": 1, "horizon": 2}
        for name, bound in least.items():
            if (given := vars(self)[name]) < bound:
                raise ValueError(
                    f"NoisyQuadratic needs {name} >= {bound}, but got {given}"
                )

    @property
    def space(self) -> Space:
        """Starts at the centre of what black-box search samples: no decay."""
        rate = Positive(10**-1.5, low=1e-3, high=1.0)
        return Space(lr=rate, final_lr=rate, momentum=Unit(0.495, low=0.0, high=0.99))

    @property
    def curvatures(self) -> Tensor:
        """h, shape (dimensions,)."""
        exponents = torch.linspace(0.0, 1.0, self.dimensions)
        return self.condition**-exponents

    def start(self, seed: int) -> Tensor:
        """w_0, uniform in [0.5, 1.5], shape (dimensions,)."""
        # Steps before the first are no step's own.
        return 0.5 + Noise(seed, torch.tensor(-1)).uniform((self.dimensions,))

    def rates(self, hparams: Hparams) -> Tensor:
        """α_t, shape (T,)."""
        share = torch.arange(self.horizon) / (self.horizon - 1)
        return hparams["lr"] * (hparams["final_lr"] / hparams["lr"]) ** share

    def sample(self, seed: int) -> BilevelProblem:
        """The start and the noise that the seed gives."""
        h, shape = self.curvatures, (2 * self.runs, self.dimensions)
        start = self.start(seed).expand(shape)

        def each(params: Tensors) -> Tensor:
            return 0.5 * (h * params["w"].square()).sum(1)

        def noisy(params: Tensors, hparams: Hparams, batch: Batch) -> Tensor:
            xi = Noise(seed, batch.index).normal(shape)
            force = self.noise * h.sqrt() * xi
            return each(params).sum() + (force * params["w"]).sum()

        def optimizer(hparams: Hparams) -> Optimizer:
            return sgd(self.rates(hparams), momentum=hparams["momentum"])

        return descent(
            init_params=lambda hparams: {"w": start.clone()},
            inner_loss=noisy,
            outer_loss=lambda params, hparams: each(params)[: self.runs].mean(),
            optimizer=optimizer,
            metrics=lambda params, hparams: {
                "test_loss": each(params)[self.runs :].mean()
            },
        )

    def expected_loss(self, hparams: Hparams, seed: int) -> float:
        r"""E[f(w_T)] over the noise in closed form.

        $$ m_{t+1} = M_t m_t,\quad C_{t+1} = M_t C_t M_t^\top + \sigma^2 h\, n_t
           n_t^\top,\quad M_t = \begin{pmatrix} 1 - \alpha_t h & -\alpha_t \mu \\ h &
           \mu \end{pmatrix},\quad n_t = \begin{pmatrix} -\alpha_t \\ 1 \end{pmatrix} $$

        for the mean m and covariance C of (w_i, v_i): E f = ½ Σ h (m_w² + C_ww).
        """
        mu, total = float(hparams["momentum"]), 0.0
        rates = self.rates(hparams).tolist()
        starts, curvatures = self.start(seed).tolist(), self.curvatures.tolist()
        for h, w0 in zip(curvatures, starts, strict=True):
            mean = torch.tensor([w0, 0.0], dtype=torch.float64)
            covariance = torch.zeros(2, 2, dtype=torch.float64)
            for a in rates:
                matrix = torch.tensor([[1 - a * h, -a * mu], [h, mu]]).to(mean)
                n = torch.tensor([-a, 1.0]).to(mean)
                mean = matrix @ mean
                covariance = matrix @ covariance @ matrix.T
                covariance = covariance + self.noise**2 * h * n.outer(n)
            total += 0.5 * h * float(mean[0] ** 2 + covariance[0, 0])
        return total
