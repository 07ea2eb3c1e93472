"""What a descent reports."""

from typing import Any, NamedTuple

import torch

from raymeta.hypergrad.base import advance
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams, State

#: λ over one training run: (number of steps, λ by flat name) in order.
Schedule = list[tuple[int, dict[str, Any]]]


class Report(NamedTuple):
    """What a running trial says after each evaluation of the outer loss.

    Attributes:
        outer_step: evaluations of the outer loss by this trial so far, from 1.
        inner_steps: training steps of the run that this report is about.
        gradient_evals: what this trial has spent so far.
        outer_loss: E now; may be non-finite.
        complete: whether this is E(s_T, λ), the value of a full run.
        hparams: λ by flat name, natural values.
        state: s_T of a complete run, else None. Not for serialization.
        schedule: λ over the steps of a complete run, else None.
    """

    outer_step: int
    inner_steps: int
    gradient_evals: float
    outer_loss: float
    complete: bool
    hparams: dict[str, Any]
    state: State | None
    schedule: Schedule | None = None


def plain_run(
    problem: BilevelProblem, hparams: Hparams, horizon: int
) -> tuple[State, float]:
    """(s_T, E(s_T, λ)) of training at fixed λ."""
    state = advance(problem, hparams, problem.init(hparams), 0, horizon)
    return state, outer_value(problem, state, hparams)


def outer_value(problem: BilevelProblem, state: State, hparams: Hparams) -> float:
    """E as a number."""
    with torch.no_grad():
        return float(problem.outer_loss(state, hparams))
