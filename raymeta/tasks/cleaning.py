"""Data hyper-cleaning: a weight for every training example, half of them wrong."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta.data import digits, split
from raymeta.errors import require_types
from raymeta.modules import module_problem, smoothed_cross_entropy
from raymeta.modules.counter_rng import mix
from raymeta.optim import sgd
from raymeta.problem import BilevelProblem
from raymeta.space import Space, Unit
from raymeta.tasks.networks import accuracy, seeded
from raymeta.types import Hparams, State, Tensors


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    r"""Learn which training labels are wrong: one weight in (0, 1) per example.

    $$ \min_\theta\; \frac1n \sum_i \lambda_i\, \ell(f_\theta(x_i), y_i) $$

    by heavy-ball descent of a softmax regression on 503 training digits, a share of
    which bear the label of another class, drawn at random; 503 validation and 791 test
    digits are clean. λ = σ(ω), and descents walk in ω.

    Attributes:
        share: share of the wrong labels, in [0, 1).
        lr: learning rate of the descent, whose momentum is 0.9.
        horizon: T, training steps of a full run.
        budget: gradient evaluations of a comparison; 50 full runs by default.

    Raises:
        ValueError: a share outside [0, 1).

    Source: Franceschi et al. 2017, section 5.1; σ: Shaban et al. 2019, section 5.1.
    """

    share: float = 0.5
    lr: float = 0.5
    horizon: int = 100
    budget: float = 5000.0
    name: str = "cleaning"
    source: ClassVar[str] = "Franceschi et al. 2017; digits of scikit-learn"
    licence: ClassVar[str] = "CC BY 4.0"

    def __post_init__(self) -> None:
        """Check the share."""
        require_types(self)
        if not 0 <= self.share < 1:
            raise ValueError(f"Cleaning needs 0 <= share < 1, but got {self.share}")

    @property
    def space(self) -> Space:
        """Starts at the centre of what black-box search samples: all alike."""
        return Space(weights=Unit(0.5, low=1e-3, high=1 - 1e-3, shape=(503,)))

    def corrupted(self, seed: int) -> Tensor:
        """Which training examples of `sample(seed)` are mislabelled, bool, (503,)."""
        order = torch.randperm(503, generator=_generator(seed, 0))
        return order < round(self.share * 503)

    def sample(self, seed: int) -> BilevelProblem:
        """A new split, corruption and initialization."""
        parts = split(*digits(), fractions=(0.28, 0.28), seed=seed)
        wrong = self.corrupted(seed)
        inputs, labels = parts.train.tensors
        moved = labels + torch.randint(
            1, 10, labels.shape, generator=_generator(seed, 1)
        )
        problem = module_problem(
            seeded(lambda: nn.Linear(64, 10), seed),
            loss=F.cross_entropy,
            train=TensorDataset(inputs, torch.where(wrong, moved % 10, labels)),
            val=parts.val,
            test=parts.test,
            metrics={"accuracy": accuracy},
            train_loss=_weighted,
            optimizer=lambda hparams: sgd(self.lr, momentum=0.9),
            seed=seed,
        )
        held_out = problem.metrics
        assert held_out is not None

        def metrics(state: State, hparams: Hparams) -> Tensors:
            found = f1(hparams["weights"] < 0.5, wrong)
            return held_out(state, hparams) | {"test_f1": found}

        return replace(problem, metrics=metrics)


def f1(said: Tensor, truth: Tensor) -> Tensor:
    """2 hits / (2 hits + misses + false alarms) of two bool tensors; 0 if none is."""
    hits, errors = (said & truth).sum(), (said ^ truth).sum()
    return 2 * hits / (2 * hits + errors).clamp(min=1)


def _generator(seed: int, which: int) -> torch.Generator:
    return torch.Generator().manual_seed(mix(seed, which))


def _weighted(
    outputs: Tensor, targets: Tensor, hparams: Hparams, index: Tensor
) -> Tensor:
    weights = hparams["weights"][index]
    return smoothed_cross_entropy(outputs, targets, weights=weights)
