"""Sensitivities of a run: its adjoints, and how far runs at other λ come apart."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from raymeta._tree import detach, partition
from raymeta.hypergrad.adjoint import Adjoint
from raymeta.hypergrad.base import advance, differentiable, unroll
from raymeta.hypergrad.preflight import recording
from raymeta.optim.base import as_real
from raymeta.problem import BilevelProblem, TrainState
from raymeta.types import Hparams, State, Tensors


class Sensitivity(NamedTuple):
    """What a reverse pass finds.

    Attributes:
        outer_loss: E.
        grads: dE/dλ in natural values.
        norms: |dE/ds_t| at each of the times asked for, of the weights alone where the
            state has some.
    """

    outer_loss: float
    grads: Tensors
    norms: list[float]


class Recorded(NamedTuple):
    """The graph of a run, stretch by stretch.

    Attributes:
        leaves: the tensors of λ, which are leaves of the graph.
        stretches: of each, the tensors of the state where it begins, which are leaves,
            and the state where it ends.
    """

    leaves: Tensors
    stretches: list[tuple[list[Tensor], State]]


def record(
    problem: BilevelProblem, hparams: Hparams, times: Sequence[int]
) -> tuple[list[State], Recorded]:
    """What `run_through` finds, and the graph, so that no stretch is run again."""
    with recording():
        leaves = differentiable(hparams)
        live = {**hparams, **leaves}
        states, stretches = [detach(problem.init(hparams))], []
        for t, stop in pairwise(times):
            values, state = _fresh(states[-1])
            state = unroll(problem, live, state, t, stop - t)
            stretches.append((values, state))
            states.append(detach(state))
    return states, Recorded(leaves, stretches)


def run_through(
    problem: BilevelProblem, hparams: Hparams, times: Sequence[int]
) -> list[State]:
    """The states at increasing times, the first of which is 0; without a graph."""
    states = [detach(problem.init(hparams))]
    for t, stop in pairwise(times):
        states.append(advance(problem, hparams, states[-1], t, stop - t))
    return states


def differentiate(
    problem: BilevelProblem,
    hparams: Hparams,
    times: Sequence[int],
    states: Sequence[State],
    recorded: Recorded | None = None,
) -> Sensitivity:
    """Reverse mode from kept states.

    Args:
        problem: what was trained.
        hparams: λ.
        times: from 0 to T.
        states: what `run_through` found there.
        recorded: the graph; without it each stretch is run once more.
    """
    with recording():
        leaves = differentiable(hparams) if recorded is None else recorded.leaves
        live = {**hparams, **leaves}
        values, state = _fresh(states[-1])
        outer_loss = problem.outer_loss(state, live)
        adjoint = Adjoint(outer_loss, leaves)
        adjoint.pull([outer_loss], values)
        norms = [_norm(adjoint.alpha, states[-1])]
        for i in range(len(times) - 2, -1, -1):
            if recorded is None:
                values, state = _fresh(states[i])
                state = unroll(problem, live, state, times[i], times[i + 1] - times[i])
            else:
                values, state = recorded.stretches[i]
            adjoint.pull(partition(state)[0], values)
            norms.append(_norm(adjoint.alpha, states[i]))
        adjoint.pull(partition(problem.init(live))[0], [])
        return Sensitivity(float(outer_loss.detach()), adjoint.grads(), norms[::-1])


def weights(state: State) -> list[Tensor]:
    """The weights of a training state; of another state, all of its floating tensors.

    An optimizer's memory has other units, and steep slopes where it is near 0.
    """
    return partition(state.params if isinstance(state, TrainState) else state)[0]


def distance(one: State, other: State) -> float:
    """How far the weights of two states are apart."""
    pairs = zip(weights(one), weights(other), strict=True)
    return float(_joined([x - y for x, y in pairs]).norm())


def metasmoothness(one: State, two: State, three: State) -> float:
    r"""How far three trainings along a line of λ go on in the directions they begin.

    $$ \hat S = \sum_i \frac{|\Delta_i|}{\|\Delta\|_1}\,
       \operatorname{sign}(\Delta_i) \operatorname{sign}(\Delta'_i),\qquad
       \Delta = w_2 - w_1,\quad \Delta' = w_3 - w_2 $$

    w are the trained weights (`weights`) at λ - δv, λ and λ + δv. 1 where every weight
    goes on as it began, 0 for independent signs; NaN where none moves.

    Source: Engstrom et al. 2025 (arXiv 2503.13751), Definition 2.
    """
    a, b, c = (_joined(weights(state)) for state in (one, two, three))
    first, second = b - a, c - b
    total = first.abs().sum()
    agreeing = (first.abs() * first.sign() * second.sign()).sum()
    return float(agreeing / total) if total > 0 else float("nan")


def _fresh(state: State) -> tuple[list[Tensor], State]:
    values, rest, merge = partition(state)
    values = [value.detach().requires_grad_() for value in values]
    return values, merge(values, rest)


def _norm(alpha: Sequence[Tensor | None], state: State) -> float:
    leaves, _, merge = partition(state)
    filled = [
        torch.zeros_like(x) if a is None else a
        for a, x in zip(alpha, leaves, strict=True)
    ]
    return float(_joined(weights(merge(filled, partition(state)[1]))).norm())


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """All elements as one vector, in double precision on the CPU."""
    flat = [as_real(x.detach()).double().cpu().flatten() for x in tensors]
    return torch.cat(flat) if flat else torch.zeros(0, dtype=torch.float64)
