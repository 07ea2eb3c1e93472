"""Plain training along a schedule of λ."""

from collections.abc import Sequence

from raymeta.hypergrad.base import advance
from raymeta.outer.conditions import seen_by
from raymeta.outer.report import Schedule, outer_value
from raymeta.problem import BilevelProblem
from raymeta.space import Space
from raymeta.types import Hparams, State


def replay(problem: BilevelProblem, space: Space, schedule: Schedule) -> State:
    """s_T of plain training along a schedule: the run that a descent reported."""
    space, device = seen_by(problem, space, schedule[0][1]), problem.device
    return trained(problem, [(k, space.hparams(p, device=device)) for k, p in schedule])


def trained(problem: BilevelProblem, schedule: Sequence[tuple[int, Hparams]]) -> State:
    """s_T of the same, of λ in natural values."""
    state, t = problem.init(schedule[0][1]), 0
    for steps, hparams in schedule:
        state = advance(problem, hparams, state, t, steps)
        t += steps
    return state


def loss_curve(
    problem: BilevelProblem, space: Space, schedule: Schedule
) -> list[float]:
    """E(s_t) for t = 0 … T of plain training along a schedule."""
    space, device = seen_by(problem, space, schedule[0][1]), problem.device
    hparams = space.hparams(schedule[0][1], device=device)
    state, t = problem.init(hparams), 0
    curve = [outer_value(problem, state, hparams)]
    for steps, point in schedule:
        hparams = space.hparams(point, device=device)
        for _ in range(steps):
            state = advance(problem, hparams, state, t, 1)
            curve.append(outer_value(problem, state, hparams))
            t += 1
    return curve
