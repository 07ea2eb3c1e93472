"""Several estimators and evolution strategies, weighted by what they miss."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from raymeta._tree import detach
from raymeta.errors import require_types
from raymeta.hypergrad.antithetic import Sigma, by_name
from raymeta.hypergrad.base import (
    INNER,
    Estimator,
    Hypergradient,
    Rollout,
    plain_cost,
    start,
)
from raymeta.hypergrad.preflight import differentiating
from raymeta.hypergrad.smoothed import (
    RADIUS,
    Beside,
    at_itself,
    relative_noise,
    require_smoothing,
)
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams, Tensors


@dataclass(frozen=True)
class Combined:
    r"""Estimates at the same λ ± ε, each weighted by the inverse of its squared error.

    Of estimator j, pair i gives $g_{ji}$ as in `Smoothed`; evolution strategies have
    one from the outer losses of the last estimator's runs, at no cost,

    $$ g_{0i} = \frac{\epsilon_i}{2 \sigma^2}
       \bigl(E(\lambda + \epsilon_i) - E(\lambda - \epsilon_i)\bigr),\qquad
       \hat g = \frac{\sum_j \bar g_j / m_j}{\sum_j 1 / m_j},\qquad
       m_j = v_j + \bigl(|\bar g_j - \bar g_J|^2 - v_j - v_J\bigr)_+ $$

    with $v_j$ the variance of the mean $\bar g_j$ over pairs, for each hyperparameter.
    The last estimator J and the strategies are unbiased for the smoothed outer loss, so
    $m_0 = v_0$, $m_J = v_J$; the others count as far as their distance from J is what
    chance would make of it. Where exact derivatives explode, the strategies remain.

    Attributes:
        estimators: over whole runs of the same length, the last one exact, as in
            `(Truncated(100, window=25), Reverse(100))`.
        radius: see `Smoothed`.
        pairs: N, 2 or more.
        seed: seeds the noise.

    Raises:
        ValueError: no estimators, or of other lengths; see `Smoothed`; N below 2.

    Source: Metz et al. 2019, "Understanding and correcting pathologies in the training
    of learned optimizers", section 3.3: exact gradients and strategies; that biased
    ones are weighted by their squared error is raymeta's own.
    """

    estimators: Sequence[Estimator] = field(metadata=INNER)
    radius: Sigma = RADIUS
    pairs: int = 2
    seed: int = 0
    continues: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_types(self)
        lengths = [getattr(one, "steps", None) for one in self.estimators]
        if len(set(lengths)) != 1:
            raise ValueError(
                "Combined needs estimators over the same number of steps, but got "
                f"{list(self.estimators)}: give them the same"
            )
        for estimator in self.estimators:
            require_smoothing("Combined", estimator, self.radius, self.pairs)
        if self.pairs < 2:
            raise ValueError(
                "Combined needs pairs >= 2, whose variance it measures, but got "
                f"pairs={self.pairs}"
            )

    @property
    def steps(self) -> int:
        """T, the length of the run."""
        return self.estimators[-1].steps

    @differentiating
    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ), once the estimators have asked what they ask."""
        for estimator in self.estimators:
            estimator.init(problem, hparams)
        return start(problem, hparams)

    @differentiating
    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """The weighted mean over runs of T steps from s_0, whatever the rollout."""
        epsilon = relative_noise(hparams, self.radius, self.pairs, self.seed)
        beside = [Beside.of(e, problem, hparams, epsilon) for e in self.estimators]
        radius = by_name(self.radius, epsilon)
        sigma = {k: radius[k] * detach(hparams)[k].abs() for k in epsilon}
        samples = [_differences(beside[-1].losses, epsilon, sigma)]
        samples += [each.pairs() for each in beside]
        grads = {
            name: weighted([each[name] for each in samples if len(each[name])])
            for name in epsilon
        }
        return at_itself(self, problem, hparams, grads)

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """2 N estimates by each, and a plain run at λ itself."""
        each = sum(one.cost(problem, hparams) for one in self.estimators)
        return 2 * self.pairs * each + plain_cost(problem, self.steps)


def weighted(samples: Sequence[Tensor]) -> Tensor:
    """ĝ from samples of each estimate: the strategies' first, the exact one's last.

    Args:
        samples: of each, shape (N, *shape); one that is not finite, or has no variance
            since there is a single pair of it, counts only where there is nothing else.
    """
    means = [sample.mean(0) for sample in samples]
    variances = [_variance(sample) for sample in samples]
    exact, of_exact = means[-1], variances[-1]
    errors = [variances[0]]
    for mean, variance in zip(means[1:], variances[1:], strict=True):
        apart = (mean - exact).square().sum()
        errors.append(variance + (apart - variance - of_exact).clamp(min=0))
    m = torch.nan_to_num(torch.stack(errors), nan=torch.inf)
    if bool(m.isinf().all()):
        return next((mean for mean in means if bool(mean.isfinite().all())), exact)
    # Relative to the least, where several have none at all.
    least = m.min()
    weights = torch.where(m <= least, 1.0, least / m)
    parts = [w * mean for w, mean in zip(weights, means, strict=True) if w > 0]
    return torch.stack(parts).sum(0) / weights.sum()


def _variance(sample: Tensor) -> Tensor:
    """Variance of the mean, summed over elements; ∞ of a single pair."""
    if len(sample) < 2:
        return sample.new_tensor(torch.inf)
    return sample.var(0).sum() / len(sample)


def _differences(losses: Tensor, epsilon: Tensors, sigma: Tensors) -> Tensors:
    """g_0 of each pair that is finite; NaN where λ is 0, which has no noise."""
    plus, minus = losses.chunk(2)
    finite = (plus - minus).isfinite()
    difference = (plus - minus)[finite]

    def of(e: Tensor, s: Tensor) -> Tensor:
        scaled = torch.where(s > 0, e / (2 * s.square()), torch.nan)[finite]
        return torch.einsum("i,i...->i...", difference.to(e.dtype), scaled)

    return {name: of(e, sigma[name]) for name, e in epsilon.items()}
