"""Vectorized runs: many of one problem, as one program where `vmap` can."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.hypergrad.base import advance
from raymeta.hypergrad.batched_problem import (
    outer_losses,
    stack,
    stackable,
    stacked,
    unstack,
)
from raymeta.outer.evaluator import DIRECT, Evaluator, Trained
from raymeta.outer.online_run import OnlineRun, OnlineStep
from raymeta.problem import BilevelProblem
from raymeta.space import Point, Space
from raymeta.types import Hparams, State


class RunOutcome(NamedTuple):
    """End of one of the runs.

    Attributes:
        value: E(s_T), maybe not finite.
        point: λ of the last steps.
        state: s_T.
        mean: the mean of λ over all steps, in coordinates.
    """

    value: float
    point: Point
    state: State
    mean: Point


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
            yield RunOutcome(value, point, state, point)
        return
    many, hparams = stacked(problem), stack(runs)

    def train() -> Trained:
        state = advance(many, hparams, many.init(hparams), 0, horizon)
        return state, _values(problem, state, hparams)

    yield from _apart(points, points, *evaluator.run(hparams, horizon, train))


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
            last, mean = _trained(one, x)
            value, _ = one.outer_loss(last)
            ended, centre = coordinates.point(last.x), coordinates.point(mean)
            yield RunOutcome(value, ended, last.state.rollout.state, centre)
        return
    last, means = _trained(replace(one, problem=stacked(problem)), xs)
    hparams, rollout = coordinates.hparams(last.x), last.state.rollout

    def evaluate() -> Trained:
        return rollout.state, _values(problem, rollout.state, hparams)

    trained = one.evaluator.run(hparams, one.horizon, evaluate, rollout)
    points, centres = ([coordinates.point(x) for x in rows] for rows in (last.x, means))
    yield from _apart(points, centres, *trained)


def _trained(run: OnlineRun, x: Tensor) -> tuple[OnlineStep, Tensor]:
    """The last step of a run, or of several, and the mean of x over all of it."""
    total, t = torch.zeros_like(x), 0
    for step in run.steps(run.begin(x), run.horizon):  # at least one
        before, t = t, step.state.rollout.step
        total = total + (t - before) * step.x
    return step, total / t


def _values(problem: BilevelProblem, state: State, hparams: Hparams) -> list[float]:
    with torch.no_grad():
        return outer_losses(problem, state, hparams).tolist()


def _apart(
    points: list[Point], means: list[Point], state: State, values: list[float]
) -> Iterator[RunOutcome]:
    states = [None] * len(points) if state is None else unstack(state, len(points))
    yield from map(RunOutcome, values, points, states, means)
