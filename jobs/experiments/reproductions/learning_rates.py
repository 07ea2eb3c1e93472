"""Training whose learning rate learns by SGD, a tower of one storey, or stays."""

from collections.abc import Iterator

import torch

import raymeta
from raymeta.problem import BilevelProblem
from raymeta.types import State


def trained(
    problem: BilevelProblem, alpha: float, beta: float | None, steps: int
) -> Iterator[tuple[State, float]]:
    """s_t and α_t after each step.

    Args:
        problem: what is trained, with α as its hyperparameter `lr`.
        alpha: α_0.
        beta: rate of the SGD that learns α along the next batch's loss; None: α stays.
        steps: how many.
    """
    hparams = {"lr": torch.tensor(alpha)}
    if beta is None:
        state = problem.init(hparams)
        for t in range(steps):
            state = problem.step(state, hparams, problem.batch(t))
            yield state, alpha
        return
    tower = raymeta.tower(
        problem, hparams, lambda k: raymeta.optim.sgd(k["lr"]), loss="next_batch"
    )
    top = {"lr": torch.tensor(beta)}
    state = tower.init(top)
    for t in range(steps):
        state = tower.step(state, top, tower.batch(t))
        yield state.state.state, float(state.hparams["lr"])
