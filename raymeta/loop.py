"""The outer loop: hypergradient descent, and plain training at fixed λ."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from raymeta import tasks
from raymeta.hypergrad import Estimator, ShortTerm, Truncated
from raymeta.hypergrad.base import advance
from raymeta.hypergrad.reads import require_names
from raymeta.outer.arguments import (
    estimator_of,
    require_hyper_lr,
    require_progress,
    require_seed,
)
from raymeta.outer.coordinates import Coordinates, device_of, place
from raymeta.outer.descent import Descent
from raymeta.outer.evaluations import DIRECT, Evaluations
from raymeta.outer.online import OnlineDescent
from raymeta.outer.report import (
    Ledger,
    Report,
    Schedule,
    evaluation_cost,
    outer_value,
)
from raymeta.outer.whole_run import WholeRunDescent
from raymeta.problem import BilevelProblem
from raymeta.progress import Progress, clock
from raymeta.result import Result, better
from raymeta.space import Space
from raymeta.tasks.base import Task, budget_of, check_task, sampled
from raymeta.tasks.conditions import conditioned, seen_by
from raymeta.types import Hparams, State

__all__ = [
    "Report",
    "Result",
    "better",
    "descend",
    "evaluate",
    "loss_curve",
    "optimize",
    "replay",
    "require_fit",
    "run_cost",
    "sure_cost",
    "unsure",
]


def evaluate(
    problem: BilevelProblem,
    space: Space,
    hparams: Hparams,
    rungs: Iterable[int],
    start: tuple[int, State] | None = None,
) -> Iterator[Report]:
    """Train at fixed λ; report the outer loss at each rung, the last one complete.

    Unlike other reports, all of these have the state.

    Args:
        problem: what is trained.
        space: of λ, for the flat names.
        hparams: λ in natural values.
        rungs: increasing numbers of training steps; the last one is the horizon.
        start: (t, s_t) of the run that goes on, t below all rungs; step 0 by default.
    """
    rungs = list(rungs)
    assert rungs == sorted(set(rungs)), rungs
    space = seen_by(problem, space, hparams)
    hparams = space.trim(hparams)
    ledger, flat = Ledger(math.inf), space.flatten(hparams)
    hparams = place(hparams, device_of(problem))
    t, state = start or (0, problem.init(hparams))
    for rung in rungs:
        state = advance(problem, hparams, state, t, rung - t)
        ledger.charge(rung - t + evaluation_cost(problem))
        t = rung
        value = outer_value(problem, state, hparams)
        result = (state, [(t, flat)]) if rung == rungs[-1] else None
        yield ledger.report(t, value, flat, result)._replace(state=state)


def descend(
    task: Task,
    problem: BilevelProblem,
    estimator: Estimator,
    *,
    seed: int,
    budget: float,
    hyper_lr: float | None = None,
    evaluations: Evaluations = DIRECT,
) -> Iterator[Report]:
    """Hypergradient descent in a task's space, one report per estimate.

    An estimator of whole runs (`steps` = the horizon) is followed by one hyper-step per
    run; one that looks ahead a few steps, by one hyper-step per estimate. The first
    report is E(s_T) at the start, by a plain run or by the first estimate where that is
    one of a whole run; only a budget below `sure_cost` goes without.

    Args:
        task: gives the space and the horizon.
        problem: one sample of the task.
        estimator: how to differentiate.
        seed: of the restarts.
        budget: gradient evaluations; never exceeded.
        hyper_lr: first length of a hyper-step in each unconstrained coordinate: log λ
            for `Positive`, logit λ for `Unit`, λ for `Real`, in eighths of the range
            where that has bounds; 1 for whole runs and 0.2 while training goes on by
            default. From there lengths adapt: they grow while hypergradients agree, to
            1.5 and 0.2 (or the first length where that is more), and shrink where they
            do not.
        evaluations: compute what is evaluated, or remember it.

    Raises:
        ValueError: the budget does not cover one complete run; the estimator restarts
            training but does not cover the horizon, or does not look at the outer loss;
            the space is all discrete.
    """
    require_hyper_lr(hyper_lr)
    descent = _descent(task, problem, estimator, seed, budget, hyper_lr, evaluations)
    if not descent.run_cost <= budget < math.inf:
        raise ValueError(
            f"{type(estimator).__name__} on {task.name!r} needs a finite budget of at "
            f"least {math.ceil(descent.run_cost)} gradient evaluations for one run, "
            f"but got {budget:g}: change the budget"
        )
    return descent.reports()


def run_cost(task: Task, problem: BilevelProblem, estimator: Estimator) -> float:
    """Gradient evaluations that descent spends on one training run: the least budget.

    Raises:
        ValueError: the estimator does not fit the task.
    """
    return _descent(task, problem, estimator, 0, math.inf, None).run_cost


def sure_cost(task: Task, problem: BilevelProblem, estimator: Estimator) -> float:
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


def require_fit(task: Task, problem: BilevelProblem, estimator: Estimator) -> None:
    """Ask an estimator for what it refuses, before anything is spent on it.

    One start of training, and one estimate where that is a few steps, or where two
    steps tell what a window at the end of training does not see.

    Raises:
        ValueError: the estimator does not fit the task.
    """
    hparams = place(task.space.trim(task.space.initial()), device_of(problem))
    if isinstance(estimator, Truncated) and estimator.window < estimator.steps:
        estimator = replace(estimator, steps=2, window=1)
    rollout = estimator.init(problem, hparams)
    if isinstance(estimator, ShortTerm | Truncated):
        estimator.estimate(problem, hparams, rollout)


def _descent(
    task: Task,
    problem: BilevelProblem,
    estimator: Estimator,
    seed: int,
    budget: float,
    hyper_lr: float | None,
    evaluations: Evaluations = DIRECT,
) -> Descent:
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
    return (WholeRunDescent if whole else OnlineDescent)(
        problem=problem,
        coordinates=Coordinates(task.space, device_of(problem)),
        estimator=estimator,
        horizon=task.horizon,
        budget=budget,
        seed=seed,
        hyper_lr=hyper_lr,
        evaluations=evaluations,
    )


def optimize(
    task: Task | str,
    estimator: Estimator | str,
    *,
    hyper_lr: float | None = None,
    budget: float | None = None,
    seed: int = 0,
    progress: bool | Callable[[Report, float], None] | None = True,
) -> Result:
    """Learn a task's hyperparameters by hypergradient descent, in this process.

    What is found is never worse than training at the start, `Result.start_loss`, which
    is looked at first; a budget too small for that is warned of. Ctrl-C ends the
    descent: the result is what was found until then. Hyperparameters that the initial
    options do not use are left out of it.

    Args:
        task: what to tune: an object, a name, or `path.py:Name`.
        estimator: how to differentiate: an object, for example `Reverse(task.horizon)`,
            or a name of `raymeta.hypergrad.registry`, for example "reverse".
        hyper_lr: see `descend`.
        budget: gradient evaluations; the task's default if None.
        seed: of the task's sample and of restarts.
        progress: whether to print a line now and then; or what is called after each
            report with it and the lowest outer loss of a full run so far, ∞ before the
            first.

    Raises:
        ValueError: see `descend`; a name is unknown; or no run ended with a finite
            outer loss.
        KeyboardInterrupt: Ctrl-C came before a run ended with a finite outer loss.
    """
    if isinstance(task, str):
        task = tasks.get(task)
    check_task(task)
    estimator = estimator_of(estimator, task.horizon)
    budget = budget_of(task, budget)
    require_seed(seed)
    require_hyper_lr(hyper_lr)
    require_progress(progress)
    show = _printing(budget) if progress is True else progress or _ignore
    task = conditioned(task, seed)
    problem = sampled(task, seed)
    start = time.perf_counter()
    reports: list[Report] = []
    seconds: list[float] = []
    best: Report | None = None
    interrupted = False
    try:
        descent = descend(
            task, problem, estimator, seed=seed, budget=budget, hyper_lr=hyper_lr
        )
        sure = sure_cost(task, problem, estimator)
        if budget < sure * (1 - 1e-9):
            line = unsure(task, type(estimator).__name__, budget, sure)
            warnings.warn(line, stacklevel=2)
        for report in descent:
            if better(report, best):
                best = report
            reports.append(report._replace(state=None))
            seconds.append(time.perf_counter() - start)
            show(reports[-1], math.inf if best is None else best.outer_loss)
    except KeyError:
        require_names(problem, task.space.trim(task.space.initial()))
        raise
    except KeyboardInterrupt:
        if best is None:
            raise
        interrupted = True
    if best is None or best.schedule is None:
        raise ValueError(
            f"no run of {task.name!r} ended with a finite outer loss in {len(reports)} "
            "estimates: start from other hyperparameters or narrow the space"
        )
    metrics: Mapping[str, Any] = {}
    last = place(task.space.unflatten(best.hparams), device_of(problem))
    if problem.metrics is not None:
        metrics = problem.metrics(best.state, last)
    return Result(
        task=task.name,
        method=type(estimator).__name__,
        seed=seed,
        hparams=mean_hparams(task.space, best.schedule),
        outer_loss=best.outer_loss,
        state=best.state,
        schedule=best.schedule,
        metrics={name: float(value) for name, value in metrics.items()},
        reports=reports,
        seconds=seconds,
        interrupted=interrupted,
        tuned=problem.module and partial(problem.module, best.state, last),
    )


def _printing(budget: float) -> Callable[[Report, float], None]:
    """What prints how far a descent has come, now and then."""
    display = Progress(True)

    def show(report: Report, best: float) -> None:
        line = (
            f"{clock(display.elapsed)} {report.gradient_evals / budget:4.0%} of the "
            f"budget, outer loss {report.outer_loss:.5g} at step {report.inner_steps}, "
            f"best of a full run {best:.5g}"
        )
        display.update(lambda width: [line[:width]])

    return show


def _ignore(report: Report, best: float) -> None:
    pass


def mean_hparams(space: Space, schedule: Schedule) -> Hparams:
    """The mean of a schedule in unconstrained coordinates, as natural values."""
    total = sum(steps for steps, _ in schedule)
    mean: dict[str, Any] = {}
    for steps, flat in schedule:
        # In double precision: a constant schedule must give back its own λ.
        coordinates = space.unconstrained(space.unflatten(flat, torch.float64))
        for name, value in coordinates.items():
            mean[name] = mean.get(name, 0.0) + value * (steps / total)
    natural, dtype = space.natural(mean), torch.get_default_dtype()
    last = schedule[-1][1]
    choices = {name: last[name] for name in space.active(last) if name in space.choices}
    return {name: value.to(dtype) for name, value in natural.items()} | choices


def replay(problem: BilevelProblem, space: Space, schedule: Schedule) -> State:
    """s_T of plain training along a schedule: the run that a descent reported."""
    space, device = seen_by(problem, space, schedule[0][1]), device_of(problem)
    state, t = problem.init(place(space.unflatten(schedule[0][1]), device)), 0
    for steps, flat in schedule:
        hparams = place(space.unflatten(flat), device)
        state = advance(problem, hparams, state, t, steps)
        t += steps
    return state


def loss_curve(
    problem: BilevelProblem, space: Space, schedule: Schedule
) -> list[float]:
    """E(s_t) for t = 0 … T of plain training along a schedule."""
    space, device = seen_by(problem, space, schedule[0][1]), device_of(problem)
    hparams = place(space.unflatten(schedule[0][1]), device)
    state, t = problem.init(hparams), 0
    curve = [outer_value(problem, state, hparams)]
    for steps, flat in schedule:
        hparams = place(space.unflatten(flat), device)
        for _ in range(steps):
            state = advance(problem, hparams, state, t, 1)
            curve.append(outer_value(problem, state, hparams))
            t += 1
    return curve
