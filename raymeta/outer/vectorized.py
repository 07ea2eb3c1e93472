"""Vectorized runs: many of one problem, as one program where `vmap` can."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch

from raymeta.hypergrad.base import advance
from raymeta.outer.batched_problem import (
    outer_losses,
    stack,
    stackable,
    stacked,
    unstack,
)
from raymeta.outer.evaluator import DIRECT, Evaluator, Trained
from raymeta.outer.online_run import OnlineRun
from raymeta.problem import BilevelProblem
from raymeta.space import Point, Space
from raymeta.types import Hparams, State


class RunOutcome(NamedTuple):
    """End of one of the runs.

    Attributes:
        value: E(s_T), maybe not finite.
        point: λ of the last steps.
        state: s_T.
    """

    value: float
    point: Point
    state: State


def at_constants(
    problem: BilevelProblem,
    space: Space,
    runs: list[Hparams],
    horizon: int,
    evaluator: Evaluator = DIRECT,
) -> Iterator[RunOutcome]:
    """Train to the horizon at each λ.

    Args:
        problem: what is trained.
        space: which λ is of.
        runs: λ of each, of the same choices, where the problem needs them.
        horizon: T.
        evaluator: computes what is evaluated, or remembers it.
    """
    points = [space.point(hparams) for hparams in runs]
    if not stackable(problem, runs):
        for hparams, point in zip(runs, points, strict=True):
            state, value = evaluator.plain_run(problem, hparams, horizon)
            yield RunOutcome(value, point, state)
        return
    many, hparams = stacked(problem), stack(runs)

    def train() -> Trained:
        state = advance(many, hparams, many.init(hparams), 0, horizon)
        return state, _values(problem, state, hparams)

    yield from _apart(points, *evaluator.run(hparams, horizon, train))


def descending(one: OnlineRun, starts: list[Hparams]) -> Iterator[RunOutcome]:
    """Train to the horizon from each λ, each run descending by itself (`OnlineRun`).

    Args:
        one: how one of them descends.
        starts: λ where each begins, of the same choices, in double precision.
    """
    coordinates, problem = one.coordinates, one.problem
    xs = torch.stack([coordinates.at(start) for start in starts])
    if not stackable(problem, [coordinates.hparams(x) for x in xs]):
        for x in xs:
            ((report, _),) = one.reports(one.begin(x), (one.horizon,))
            yield RunOutcome(report.outer_loss, report.hparams, report.state)
        return
    many = replace(one, problem=stacked(problem))
    for step in many.steps(many.begin(xs), one.horizon):
        last = step
    hparams, rollout = coordinates.hparams(last.x), last.state.rollout

    def evaluate() -> Trained:
        return rollout.state, _values(problem, rollout.state, hparams)

    ended = one.evaluator.run(hparams, one.horizon, evaluate, rollout)
    yield from _apart([coordinates.point(x) for x in last.x], *ended)


def _values(problem: BilevelProblem, state: State, hparams: Hparams) -> list[float]:
    with torch.no_grad():
        return outer_losses(problem, state, hparams).tolist()


def _apart(
    points: list[Point], state: State, values: list[float]
) -> Iterator[RunOutcome]:
    states = [None] * len(points) if state is None else unstack(state, len(points))
    for value, point, own in zip(values, points, states, strict=True):
        yield RunOutcome(value, point, own)
