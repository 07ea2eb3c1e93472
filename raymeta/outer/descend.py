"""Hypergradient descent in a task's space, and plain training at fixed λ."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from raymeta.hypergrad import Estimator, ShortTerm, Truncated
from raymeta.hypergrad.base import advance, plain_cost
from raymeta.outer.arguments import require_hyper_lr
from raymeta.outer.auto import Auto, Known, settings_from
from raymeta.outer.base import HyperDescent
from raymeta.outer.budget import BudgetMeter
from raymeta.outer.conditions import seen_by
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.evaluator import DIRECT, Evaluator
from raymeta.outer.offline import OfflineDescent
from raymeta.outer.online import OnlineDescent
from raymeta.outer.report import Report, outer_value
from raymeta.problem import BilevelProblem
from raymeta.space import Space
from raymeta.tasks.base import Task
from raymeta.types import State


def evaluate(
    problem: BilevelProblem,
    space: Space,
    point: Mapping[str, Any],
    rungs: Iterable[int],
    start: tuple[int, State] | None = None,
    horizon: int | None = None,
) -> Iterator[Report]:
    """Train at fixed λ; report the outer loss at each rung, complete at the horizon.

    Unlike other reports, all of these have the state.

    Args:
        problem: what is trained.
        space: which λ is of.
        point: λ, or whatever `Space.parse` takes.
        rungs: increasing numbers of training steps.
        start: (t, s_t) of the run that goes on, t below all rungs; step 0 by default.
        horizon: T; the last rung by default.
    """
    rungs = list(rungs)
    horizon = horizon or rungs[-1]
    assert rungs == sorted(set(rungs)), rungs
    space = seen_by(problem, space, point)
    point, meter = space.parse(point), BudgetMeter(math.inf)
    hparams = space.hparams(point, device=problem.device)
    t, state = start or (0, problem.init(hparams))
    for rung in rungs:
        state = advance(problem, hparams, state, t, rung - t)
        meter.charge(plain_cost(problem, rung - t))
        t = rung
        value = outer_value(problem, state, hparams)
        complete = t == horizon
        yield meter.report(
            t,
            value,
            point,
            complete=complete,
            state=state,
            schedule=[(t, point)] if complete else None,
        )


def descend(
    task: Task,
    problem: BilevelProblem,
    estimator: Estimator | Auto,
    *,
    seed: int,
    budget: float,
    hyper_lr: float | None = None,
    evaluator: Evaluator = DIRECT,
    known: Sequence[Known] = (),
) -> Iterator[Report]:
    """Hypergradient descent in a task's space, one report per estimate.

    An estimator of whole runs (`steps` = the horizon) is followed by one hyper-step per
    run; one that looks ahead a few steps, by one hyper-step per estimate. The first
    report is E(s_T) at the start, by a plain run or by the first estimate where that is
    one of a whole run; only a budget below `sure_cost` goes without.

    Args:
        task: gives the space and the horizon.
        problem: one sample of the task.
        estimator: how to differentiate; `Auto` chooses.
        seed: seeds every random draw of this descent.
        budget: gradient evaluations; never exceeded.
        hyper_lr: first length of a hyper-step in each unconstrained coordinate: log λ
            for `Positive`, logit λ for `Unit`, λ for `Real`, in eighths of the range
            where that has bounds; 1 for whole runs and 0.2 while training goes on by
            default. Over whole runs, elements of a tensor of 8 or more go half of it by
            themselves, half of it together (`Rprop`). From there lengths adapt: they
            grow while hypergradients agree, to 1.5 and 0.2 (or the first length where
            that is more), and shrink where they do not. Tries at random points near the
            best one have lengths of their own.
        evaluator: computes what is evaluated, or remembers it.
        known: points and E there, ∞ where training diverged, from which the descent
            goes on, at the options of the best one.

    Raises:
        ValueError: the budget does not cover one complete run; the estimator restarts
            training but does not cover the horizon, or does not look at the outer loss;
            the space is all discrete, and the estimator not `Auto`.
    """
    require_hyper_lr(hyper_lr)
    descent = _descent(
        task, problem, estimator, seed, budget, hyper_lr, evaluator, known
    )
    if budget == math.inf or not BudgetMeter(budget).covers(descent.run_cost):
        raise ValueError(
            f"{type(estimator).__name__} on {task.name!r} needs a finite budget of at "
            f"least {math.ceil(descent.run_cost)} gradient evaluations for one run, "
            f"but got {budget:g}: change the budget"
        )
    return descent.reports()


def run_cost(task: Task, problem: BilevelProblem, estimator: Estimator | Auto) -> float:
    """Gradient evaluations that descent spends on one training run: the least budget.

    Raises:
        ValueError: the estimator does not fit the task.
    """
    return _descent(task, problem, estimator, 0, math.inf, None).run_cost


def sure_cost(
    task: Task, problem: BilevelProblem, estimator: Estimator | Auto
) -> float:
    """The same with the start: the least budget for a result that is no worse than it.

    Raises:
        ValueError: the estimator does not fit the task.
    """
    return _descent(task, problem, estimator, 0, math.inf, None).sure_cost


def unsure(task: Task, method: str, budget: float, sure: float) -> str:
    """A line for who gives a method less than what it is surely no worse than."""
    return (
        f"{method} on {task.name!r}: a budget of {budget:,g} gradient evaluations does "
        "not cover a training run at the start as well, so what is found may be worse "
        f"than the start: give {math.ceil(sure):,} or more"
    )


def require_fit(
    task: Task, problem: BilevelProblem, estimator: Estimator | Auto
) -> None:
    """Ask an estimator for what it refuses, before anything is spent on it.

    One start of training, and one estimate where that is a few steps, or where two
    steps tell what a window at the end of training does not see.

    Raises:
        ValueError: the estimator does not fit the task.
    """
    if isinstance(estimator, Auto):  # it does without what is refused
        return
    hparams = task.space.trim(task.space.initial(device=problem.device))
    if isinstance(estimator, Truncated) and estimator.window < estimator.steps:
        estimator = replace(estimator, steps=2, window=1)
    rollout = estimator.init(problem, hparams)
    if isinstance(estimator, ShortTerm | Truncated):
        estimator.estimate(problem, hparams, rollout)


def _descent(
    task: Task,
    problem: BilevelProblem,
    estimator: Estimator | Auto,
    seed: int,
    budget: float,
    hyper_lr: float | None,
    evaluator: Evaluator = DIRECT,
    known: Sequence[Known] = (),
) -> HyperDescent:
    settings: dict[str, Any] = {
        "problem": problem,
        "horizon": task.horizon,
        "budget": budget,
        "seed": seed,
        "hyper_lr": hyper_lr,
        "evaluator": evaluator,
    }
    if isinstance(estimator, Auto):
        return estimator.descent(task, settings, known)
    whole = estimator.steps >= task.horizon
    if not whole and not estimator.continues:
        raise ValueError(
            f"{type(estimator).__name__} restarts training at each estimate, so it "
            f"needs steps={task.horizon}, the horizon of {task.name!r}, but got "
            f"steps={estimator.steps}: use the horizon, or ShortTerm for fewer"
        )
    if isinstance(estimator, ShortTerm) and estimator.loss != "outer":
        raise ValueError(
            "descend scores a run by its outer loss, but ShortTerm("
            f"loss={estimator.loss!r}) sees that of a minibatch: use loss='outer'"
        )
    kind = OfflineDescent if whole else OnlineDescent
    if known:
        return kind(estimator=estimator, **settings_from(known, task, settings))
    coordinates = Coordinates(task.space, problem.device)
    return kind(estimator=estimator, coordinates=coordinates, **settings)
