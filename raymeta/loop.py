"""The outer loop: hypergradient descent, and plain training at fixed hyperparameters."""

from typing import Any, NamedTuple

from raymeta.types import State


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
    """

    outer_step: int
    inner_steps: int
    gradient_evals: float
    outer_loss: float
    complete: bool
    hparams: dict[str, Any]
    state: State | None
