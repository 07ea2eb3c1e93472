"""Estimators of the hypergradient dE/dλ, one a file."""

import torch

from raymeta.errors import require_arguments, said
from raymeta.hypergrad.base import (
    Estimator,
    Hypergradient,
    Rollout,
    require_estimator,
)
from raymeta.hypergrad.checkpointed import Checkpointed
from raymeta.hypergrad.combined import Combined
from raymeta.hypergrad.es import ES
from raymeta.hypergrad.forward import Forward
from raymeta.hypergrad.implicit import Implicit
from raymeta.hypergrad.linear_solvers import ConjugateGradient, FixedPoint, Neumann
from raymeta.hypergrad.pes import PES
from raymeta.hypergrad.registry import by_name
from raymeta.hypergrad.reverse import Reverse
from raymeta.hypergrad.reversible import Reversible
from raymeta.hypergrad.short_term import ShortTerm
from raymeta.hypergrad.smoothed import Smoothed
from raymeta.hypergrad.soba import SOBA
from raymeta.hypergrad.tower import TowerState, tower
from raymeta.hypergrad.truncated import Truncated
from raymeta.hypergrad.used_hparams import named_in, require_names, unread
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams

__all__ = [
    "ES",
    "PES",
    "SOBA",
    "Checkpointed",
    "Combined",
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
    "Smoothed",
    "TowerState",
    "Truncated",
    "hypergradient",
    "tower",
]


def hypergradient(
    problem: BilevelProblem,
    hparams: Hparams,
    estimator: Estimator | str,
    *,
    steps: int | None = None,
) -> Hypergradient:
    """dE/dλ of a run that starts at s_0(λ).

    A hyperparameter that the options in λ do not use, so that init, the first and the
    last step and the outer loss do not ask for it, has derivative 0.

    Args:
        problem: what is trained.
        hparams: λ in natural values, name -> tensor, or the option of a `Choice`.
        estimator: how to differentiate, for example `Reverse(steps=100)`; or a name of
            `raymeta.hypergrad.registry`, for example "reverse", with `steps`.
        steps: training steps of the run, of an estimator by name.

    Raises:
        ValueError: the problem or λ is none; the estimator is none, or its name is
            unknown; a name without steps, or steps beside an object; the outer loss
            does not depend on a hyperparameter, though it is read, or though λ has no
            options; the problem asks for a name that λ lacks.
    """
    require_arguments(hypergradient, problem=problem, hparams=hparams)
    estimator = _sized(estimator, steps)
    unused = unread(problem, hparams, estimator.steps)
    try:
        active = {name: v for name, v in hparams.items() if name not in unused}
        found = estimator.estimate(problem, active, estimator.init(problem, active))[0]
    except (KeyError, ValueError) as error:
        if isinstance(error, KeyError):
            require_names(problem, hparams)
        if not named_in(error, unused):
            raise
        # A later step asks for it.
        return estimator.estimate(problem, hparams, estimator.init(problem, hparams))[0]
    zeros = {name: torch.zeros_like(hparams[name]) for name in unused}
    grads = found.grads | zeros
    return found._replace(
        grads={name: grads[name] for name in hparams if name in grads}
    )


def _sized(estimator: Estimator | str, steps: int | None) -> Estimator:
    """The estimator, by its name for so many steps.

    Raises:
        ValueError: see `hypergradient`.
    """
    if isinstance(estimator, str):
        if steps is None:
            raise ValueError(
                "an estimator by name is for a number of training steps, but got "
                f"{estimator!r} without: give steps="
            )
        require_arguments(hypergradient, steps=steps)
        return by_name(estimator, steps)
    require_estimator(estimator, steps=100)
    if steps is not None:
        raise ValueError(
            f"steps is for an estimator by name, but got steps={said(steps)} beside "
            f"{estimator}: leave it out"
        )
    return estimator
