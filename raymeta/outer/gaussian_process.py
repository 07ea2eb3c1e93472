"""Gaussian process over values and gradients of a function.

Source: Solak et al. 2003, "Derivative observations in Gaussian process models of
dynamic systems"; Wu et al. 2017, "Bayesian optimization with gradients"; the kernel:
Rasmussen & Williams 2006, eq. 4.17.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: Prior mean and standard deviation of the logarithm of each length, for one coordinate
#: of unit range: it grows as the root of their number (Hvarfner et al. 2024).
LENGTH, LENGTH_SPREAD = math.log(1.5), 1.0
#: The same of the amplitude, and of the noise of values and of gradients, as parts of
#: the standard deviation of the values.
AMPLITUDE, AMPLITUDE_SPREAD = 0.0, 0.7
VALUE_NOISE, VALUE_NOISE_SPREAD = math.log(0.02), 1.5
GRADIENT_NOISE, GRADIENT_NOISE_SPREAD = math.log(0.1), 2.0
#: Steps of the fit.
STEPS = 60
#: Stands for no density at all.
SINGULAR = 1e10
#: Keeps the Cholesky factorization finite.
JITTER = 1e-8


class Posterior(NamedTuple):
    """What is believed of f at n points.

    Attributes:
        mean: of f, shape (n,).
        deviation: standard deviation of f, shape (n,).
    """

    mean: Tensor
    deviation: Tensor


class Observations(NamedTuple):
    """What was seen of f, in values of about unit variance and zero mean.

    Attributes:
        x: where values were seen, shape (n, d).
        y: the values, shape (n,).
        gradient_x: where gradients were seen, shape (m, d).
        gradients: the gradients, shape (m, d); NaN where an entry was not seen.
    """

    x: Tensor
    y: Tensor
    gradient_x: Tensor
    gradients: Tensor


class GaussianProcess:
    r"""Posterior of f ~ GP(μ, k) after noisy values and gradients.

    $k(x, z) = a^2 (1 + s + s^2/3) e^{-s}$ with $s^2 = 5 \sum_i (x_i - z_i)^2/\ell_i^2$
    (Matérn 5/2); $\partial f/\partial x_i$ is jointly normal with f. The amplitude a,
    lengths ℓ and the two noises, that of values and that of gradients, maximize the
    posterior density under log-normal priors; μ has its generalized least-squares
    value.

    Args:
        seen: what was observed, in double precision.
        log_scales: where the fit begins: those of an earlier one.

    Attributes:
        log_scales: logarithms of ℓ, a, and both noises, shape (d + 3,).
        log_density: of what was seen and of these, up to a constant of n, m and d.
    """

    def __init__(self, seen: Observations, log_scales: Tensor | None = None) -> None:
        self._seen = seen
        self._n, self._d = seen.x.shape
        observed = torch.cat([seen.y, seen.gradients.reshape(-1)])
        self._there = (~observed.isnan()).nonzero()[:, 0]
        self._observed = observed[self._there]
        self._ones = torch.zeros_like(self._observed)
        self._ones[: self._n] = 1.0
        lengths = torch.full((self._d,), LENGTH + 0.5 * math.log(self._d))
        others = torch.tensor([AMPLITUDE, VALUE_NOISE, GRADIENT_NOISE])
        spreads = [AMPLITUDE_SPREAD, VALUE_NOISE_SPREAD, GRADIENT_NOISE_SPREAD]
        self._prior = torch.cat([lengths, others]).double()
        self._spread = torch.tensor([LENGTH_SPREAD] * self._d + spreads).double()
        self.log_scales = self._fit(self._prior if log_scales is None else log_scales)
        with torch.no_grad():
            covariance = self._covariance(self.log_scales)
            self._factor = torch.linalg.cholesky(covariance)
            self._mean, self._weights = self._least_squares(self._factor)
            self.log_density = -float(self._negative_log_density(self.log_scales))

    @property
    def lengths(self) -> Tensor:
        """ℓ of each coordinate, shape (d,)."""
        return self.log_scales[: self._d].exp()

    @property
    def gradient_noise(self) -> float:
        """Standard deviation of a gradient's noise, as part of that of the gradient."""
        return math.exp(float(self.log_scales[-1]))

    def posterior(self, z: Tensor) -> Posterior:
        """Belief of f at z of shape (n, d); differentiable."""
        seen, none = self._seen, z.new_zeros((0, self._d))
        k = self._kernel((z, none), (seen.x, seen.gradient_x), self.log_scales)
        k = k[:, self._there]
        mean = self._mean + k @ self._weights
        explained = torch.linalg.solve_triangular(self._factor, k.T, upper=False)
        prior = (2 * self.log_scales[self._d]).exp()
        variance = prior - explained.square().sum(0)
        return Posterior(mean, variance.clamp(min=1e-12).sqrt())

    def _fit(self, start: Tensor) -> Tensor:
        """Log scales of largest posterior density."""
        scales = start.clone().requires_grad_()
        lbfgs = torch.optim.LBFGS(
            [scales],
            max_iter=STEPS,
            line_search_fn="strong_wolfe",
            tolerance_change=1e-6,
        )

        def closure() -> Tensor:
            lbfgs.zero_grad()
            loss = self._negative_log_density(scales)
            loss.backward()
            return loss

        lbfgs.step(closure)
        # A line search may end where the kernel's matrix is singular.
        return min((scales.detach(), start, self._prior), key=self._badness)

    def _badness(self, scales: Tensor) -> float:
        with torch.no_grad():
            loss = float(self._negative_log_density(scales))
        return loss if math.isfinite(loss) else SINGULAR

    def _negative_log_density(self, scales: Tensor) -> Tensor:
        """Rasmussen & Williams 2006, eq. 2.30, and the priors'."""
        factor, failed = torch.linalg.cholesky_ex(self._covariance(scales))
        if failed or not bool(torch.isfinite(factor).all()):
            return 0.0 * scales.sum() + SINGULAR
        mean, weights = self._least_squares(factor)
        residual = self._observed - mean * self._ones
        likelihood = 0.5 * residual @ weights + factor.diagonal().log().sum()
        prior = 0.5 * ((scales - self._prior) / self._spread).square().sum()
        return likelihood + prior

    def _least_squares(self, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Generalized least-squares μ, and K⁻¹(y - μ)."""
        both = torch.stack([self._observed, self._ones], 1)
        of_y, of_ones = torch.cholesky_solve(both, factor).unbind(1)
        mean = (self._ones @ of_y) / (self._ones @ of_ones)
        return mean, of_y - mean * of_ones

    def _covariance(self, scales: Tensor) -> Tensor:
        """Covariance of what was seen, noise included."""
        seen, d = (self._seen.x, self._seen.gradient_x), self._d
        log_lengths, log_amplitude = scales[:d], scales[d]
        value_noise, gradient_noise = (2 * scales[d + 1 :]).exp()
        # Of a gradient's entry: part of its prior variance, 5 a² / 3 ℓ².
        slope = (2 * log_amplitude - 2 * log_lengths).exp() * (5 / 3)
        noise = [
            value_noise.expand(self._n),
            (gradient_noise * slope).repeat(len(self._seen.gradient_x)),
        ]
        noisy = self._kernel(seen, seen, scales) + torch.diag(torch.cat(noise) + JITTER)
        return noisy[self._there][:, self._there]

    def _kernel(
        self, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], scales: Tensor
    ) -> Tensor:
        """Covariance of (f(x), ∇f(gx)) and (f(z), ∇f(gz)), of both pairs of points.

        With r² = Σ (x - z)²/ℓ² and k = a² φ(r²): ∂k/∂x = 2 φ' (x - z)/ℓ², and so on.
        """
        (x, gx), (z, gz) = one, other
        lengths = scales[: self._d].exp()
        a2 = (2 * scales[self._d]).exp()

        def between(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            scaled = (a[:, None] - b[None]) / lengths
            s = (5 * scaled.square().sum(-1) + 1e-30).sqrt()
            e = a2 * (-s).exp()
            first, second = -(5 / 6) * (1 + s) * e, (25 / 12) * e  # φ', φ''
            return scaled / lengths, (1 + s + s * s / 3) * e, first, second

        _, values, _, _ = between(x, z)
        way, _, first, _ = between(x, gz)
        right = (-2 * first[..., None] * way).flatten(1)
        way, _, first, _ = between(gx, z)
        below = (2 * first[..., None] * way).permute(0, 2, 1).flatten(0, 1)
        way, _, first, second = between(gx, gz)
        both = -4 * second[..., None, None] * way[..., :, None] * way[..., None, :]
        both = both - torch.diag_embed((2 * first)[..., None] / lengths.square())
        corner = both.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
        return torch.cat([torch.cat([values, right], 1), torch.cat([below, corner], 1)])


def log_expected_improvement(believed: Posterior, best: Tensor) -> Tensor:
    """Log of E[max(best - f, 0)], stable far below the best; shape (n,).

    Source: Jones et al. 1998, eq. 15; the tail: Ament et al. 2023, "Unexpected
    improvements to expected improvement".
    """
    mean, deviation = believed
    u = ((best - mean) / deviation).clamp(min=-30)
    normal = torch.distributions.Normal(mean.new_zeros(()), 1.0)
    near = deviation * (u * normal.cdf(u) + normal.log_prob(u).exp())
    far = deviation.log() + normal.log_prob(u) - 2 * (-u).clamp(min=1.0).log()
    return torch.where(u > -5, near.clamp(min=1e-300).log(), far)
