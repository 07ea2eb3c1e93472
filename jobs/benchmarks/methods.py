"""The rows of the benchmark: ways of training, and of differentiating it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from jobs.benchmarks.baselines import (
    Outcome,
    torchopt,
    train_with_torch,
    unroll_with_higher,
    unroll_with_torchopt,
)
from jobs.benchmarks.cases import BOTH, Run
from raymeta.hypergrad import (
    Checkpointed,
    Estimator,
    Forward,
    Reverse,
    Reversible,
    ShortTerm,
)
from raymeta.hypergrad.base import advance
from raymeta.hypergrad.compiled import compiled


class Method(NamedTuple):
    """A row of the time table.

    Attributes:
        name: the name in the tables.
        run: a whole run by it.
        exact: whether its gradient is the whole run's.
        learned: the λ to differentiate by, a key of `LEARNED`.
        compiled: whether it runs compiled code.
    """

    name: str
    run: Callable[[Run], Outcome]
    exact: bool = False
    learned: str = BOTH
    compiled: bool = False


def train_with_raymeta(run: Run, compile: bool = False) -> Outcome:
    """Training by `BilevelProblem.step`."""
    problem = compiled(run.problem, compile)
    start = problem.init(run.hparams)
    state = advance(problem, run.hparams, start, 0, run.steps)
    with torch.no_grad():
        return problem.outer_loss(state, run.hparams), {}


def follow(estimator: Estimator, run: Run) -> Outcome:
    """A whole run by an estimator: one estimate, or one after each of its steps."""
    rollout = estimator.init(run.problem, run.hparams)
    while rollout.step < run.steps:
        last, rollout = estimator.estimate(run.problem, run.hparams, rollout)
    return last.outer_loss, last.grads


def share_gradients(run: Run) -> Outcome:
    """A whole run by `ShortTerm` of the next batch's loss, and at last E."""
    estimator, hparams = ShortTerm(loss="next_batch"), run.hparams
    rollout = estimator.init(run.problem, hparams)
    while rollout.step < run.steps:
        last, rollout = estimator.estimate(run.problem, hparams, rollout)
    with torch.no_grad():
        return run.problem.outer_loss(rollout.state, hparams), last.grads


def exact(name: str, estimator: Callable[..., Estimator], **knobs: Any) -> Method:
    """A row for an exact estimator, made for the length of the run."""
    return Method(
        f"{name}, compiled" if "compile" in knobs else name,
        lambda run: follow(estimator(run.steps, **knobs), run),
        exact=True,
        compiled="compile" in knobs,
    )


def both(
    name: str, estimator: Callable[..., Estimator], learned: str = BOTH
) -> list[Method]:
    """Two rows for an exact estimator, eager and compiled."""
    rows = exact(name, estimator), exact(name, estimator, compile=True)
    return [row._replace(learned=learned) for row in rows]


#: Rows that others are compared with.
PLAIN, HIGHER, TORCHOPT = "plain torch.optim", "higher", "TorchOpt"
METHODS = [
    Method(PLAIN, train_with_torch),
    Method("plain raymeta", train_with_raymeta),
    Method(
        "plain raymeta, compiled",
        partial(train_with_raymeta, compile=True),
        compiled=True,
    ),
    *both("Reverse", Reverse),
    *both("Checkpointed", Checkpointed),
    exact("Reversible", Reversible),
    *both("Forward, 2 values", Forward),
    *both("Forward, 32 values", Forward, learned="32 values"),
    Method("ShortTerm, lr", share_gradients, learned="lr"),
    Method("ShortTerm, validation", partial(follow, ShortTerm())),
    exact("Reverse by higher", Reverse, engine="higher"),
    Method(HIGHER, unroll_with_higher, exact=True),
]
if torchopt is not None:
    METHODS.append(Method(TORCHOPT, unroll_with_torchopt, exact=True))
