"""Every way of computing dE/dλ, one estimator a file."""

from raymeta.hypergrad.base import (
    Estimator,
    Hypergradient,
    Rollout,
    require_estimator,
)
from raymeta.hypergrad.checkpointed import Checkpointed
from raymeta.hypergrad.es import ES
from raymeta.hypergrad.forward import Forward
from raymeta.hypergrad.implicit import Implicit
from raymeta.hypergrad.pes import PES
from raymeta.hypergrad.reverse import Reverse
from raymeta.hypergrad.reversible import Reversible
from raymeta.hypergrad.short_term import ShortTerm
from raymeta.hypergrad.solvers import ConjugateGradient, FixedPoint, Neumann
from raymeta.hypergrad.tower import TowerState, tower
from raymeta.hypergrad.truncated import Truncated
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams

__all__ = [
    "ES",
    "PES",
    "Checkpointed",
    "ConjugateGradient",
    "Estimator",
    "FixedPoint",
    "Forward",
    "Hypergradient",
    "Implicit",
    "Neumann",
    "Reverse",
    "Reversible",
    "Rollout",
    "ShortTerm",
    "TowerState",
    "Truncated",
    "hypergradient",
    "tower",
]


def hypergradient(
    problem: BilevelProblem, hparams: Hparams, estimator: Estimator
) -> Hypergradient:
    """dE/dλ of a run that starts at s_0(λ).

    Args:
        problem: what is trained.
        hparams: λ in natural values, name -> tensor.
        estimator: how to differentiate, for example `Reverse(steps=100)`.

    Raises:
        ValueError: the estimator is none; the outer loss does not depend on a
            hyperparameter.
    """
    require_estimator(estimator, steps=100)
    return estimator.estimate(problem, hparams, estimator.init(problem, hparams))[0]
