"""Hyperparameters of a task by hypergradient descent."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from raymeta import tasks
from raymeta.errors import require_arguments
from raymeta.hypergrad import Estimator
from raymeta.hypergrad.compiled import CompiledDescent, CompiledStep
from raymeta.hypergrad.used_hparams import require_names
from raymeta.outer.arguments import (
    estimator_of,
    require_hyper_lr,
    require_progress,
    require_seed,
)
from raymeta.outer.auto import AUTO, Auto
from raymeta.outer.budget import BudgetMeter
from raymeta.outer.conditions import conditioned
from raymeta.outer.descend import descend, sure_cost, unsure
from raymeta.outer.evaluator import DIRECT, Evaluator
from raymeta.outer.first_look import first_look
from raymeta.outer.following import follow
from raymeta.outer.parallel import DATA, layout_of
from raymeta.outer.precision import noise
from raymeta.outer.report import Report, Schedule, held_out, plain_run
from raymeta.outer.result import Result, better
from raymeta.problem import BilevelProblem
from raymeta.results.overfitting import Overfitting
from raymeta.runtime.progress import Bar
from raymeta.space import Space
from raymeta.tasks.base import (
    Task,
    budget_of,
    sample_problem,
    sampled,
    samples_by_choice,
)
from raymeta.types import Hparams, State


def optimize(
    task: Task | str,
    estimator: Estimator | Auto | str = AUTO,
    *,
    hyper_lr: float | None = None,
    budget: float | None = None,
    seed: int = 0,
    progress: bool | Callable[[Report, float], None] | None = True,
    name: str | None = None,
    storage: str | Path = "results",
    workers: int = 1,
    gpus: int = 0,
    parallel: str = DATA,
    log: str | None = None,
) -> Result:
    """Learn a task's hyperparameters by hypergradient descent.

    In this process, or on workers of Ray Train, which find what one process does.

    What is found is never worse than training at the start, `Result.start_loss`, which
    is looked at first; a budget too small for that is warned of, and so is a validation
    set that was overfitted (`Result.overfitting`). Ctrl-C ends the
    descent: the result is what was found until then. By default options are searched as
    well, another estimator keeps the initial ones. Hyperparameters that the options
    found do not use are left out of it.

    Args:
        task: what to tune: an object, a name, or `path.py:Name`.
        estimator: how to differentiate: an object, for example `Reverse(task.horizon)`,
            or a name of `raymeta.hypergrad.registry`, for example "reverse", or
            `path.py:Name` of an estimator or of what makes one for T steps; by default
            it and the descent are chosen by the task, see `raymeta.outer.auto.Auto`.
        hyper_lr: length of the first hyper-step in each coordinate of the space, log λ
            for `Positive`; the descent's own by default, see
            `raymeta.outer.descend.descend`.
        budget: gradient evaluations; the task's default if None.
        seed: seeds the task's sample and every random draw of the descent.
        progress: whether to print a first look at the task (`raymeta.outer.first_look`)
            and a line now and then; or what is called after each
            report with it and the lowest outer loss of a full run so far, ∞ before the
            first.
        name: name of a folder of results. All evaluations are kept there: the same
            call with the same name goes on where a killed one was, to the same result,
            and returns that of a finished one without computing it again.
        storage: the folder that holds it; or its address on an object store.
        workers: processes that compute one training together, on Ray Train; 1 without
            GPUs: this process, without Ray. The same name goes on with another number.
        gpus: GPUs of all workers together, as many for each.
        parallel: what workers share out: "data", the examples of each batch and of the
            validation set, see `raymeta.distributed.data_parallel`; "tangents", those
            of `Forward`; "population", the perturbations of `ES` and `PES`.
        log: "mlflow" or "wandb": each report and the result also go to a run there, the
            active one or a new one; the first 100 numbers of λ as `hp/<name>`.

    Raises:
        ValueError: see `descend`; a name is unknown; no run ended with a finite outer
            loss; the folder is of other settings, or of other code; the task or the
            estimator has nothing that can be shared out so; the cluster has too little;
            workers do not compute the same; or one of them died.
        KeyboardInterrupt: Ctrl-C came before a run ended with a finite outer loss.
    """
    task = tasks.resolve(task)
    estimator = estimator_of(estimator, task.horizon)
    budget = budget_of(task, budget)
    require_arguments(optimize, name=name, storage=storage, log=log)
    require_seed(seed)
    require_hyper_lr(hyper_lr)
    require_progress(progress)
    layout = layout_of(workers, gpus, parallel)
    settings: dict[str, Any] = {"hyper_lr": hyper_lr, "budget": budget, "seed": seed}
    with ExitStack() as stack:
        finish: Callable[[Result], None] = _ignore
        if log is not None:
            from raymeta.integrations.tracking import tracked

            known = {"task": task.name, "estimator": type(estimator).__name__}
            title = name or f"{task.name} {known['estimator']}"
            finish = stack.enter_context(tracked(log, title, known | settings))
        if not layout.is_here:
            import raymeta.workers

            run = raymeta.workers.Run(task, estimator, settings, layout, progress)
            result = run.anonymous() if name is None else run.by_name(name, storage)
        elif name is None:
            result = descended(task, estimator, **settings, progress=progress)
        else:
            from raymeta.search import named

            folder = stack.enter_context(
                named.folder_of(task, estimator, settings, name, storage)
            )
            result = named.optimized(folder, task, estimator, settings, progress)
        finish(result)
    return result


def descended(
    task: Task,
    estimator: Estimator | Auto,
    *,
    hyper_lr: float | None,
    budget: float,
    seed: int,
    progress: bool | Callable[[Report, float], None] | None,
    evaluator: Evaluator = DIRECT,
    opening: Callable[[str], None] | None = None,
) -> Result:
    """The result of a descent: `optimize`, by any evaluator.

    Args:
        task: see `optimize`; likewise those that are not named here.
        estimator: an object.
        hyper_lr: checked.
        budget: a number.
        seed: checked.
        progress: see `optimize`.
        evaluator: computes what is evaluated, or remembers it.
        opening: takes the first look at the task; by default it is printed where
            progress is.
    """
    task = conditioned(task, seed)
    problem = sampled(task, seed)
    if opening is None and progress is True:
        opening = partial(print, flush=True)
    if opening is not None:
        how = f"{task.name} by {type(estimator).__name__}"
        spent = f"{how}, {budget:,g} gradient evaluations"
        opening(f"{first_look(task, problem)}\n{spent}")
    reports: list[Report] = []
    best: Report | None = None
    interrupted, start_holdout = False, math.nan
    live = ExitStack()
    try:
        show = live.enter_context(shown(progress, budget, _waiting(problem)))
        descent = descend(
            task,
            problem,
            estimator,
            seed=seed,
            budget=budget,
            hyper_lr=hyper_lr,
            evaluator=evaluator,
        )
        sure = sure_cost(task, problem, estimator)
        if not BudgetMeter(budget).covers(sure):
            line = unsure(task, type(estimator).__name__, budget, sure)
            warnings.warn(line, stacklevel=3)
        if (noisy := noise(task, problem, estimator, evaluator)) is not None:
            warnings.warn(noisy, stacklevel=3)
        for report in evaluator.timed(descent):
            if not reports and report.complete and problem.holdout_loss is not None:
                look = partial(_held_back, task, problem, report)
                start_holdout = evaluator.once("start_holdout_loss", look)
            if better(report, best):
                best = report
                evaluator.keep(report.state)
            reports.append(report._replace(state=None))
            lowest = math.inf if best is None else best.outer_loss
            show(reports[-1], lowest)
            follow(reports[-1], lowest)
    except KeyError:
        require_names(problem, task.space.trim(task.space.initial()))
        raise
    except KeyboardInterrupt:
        if best is None:
            raise
        interrupted = True
    finally:
        live.close()
    if best is None or best.schedule is None:
        raise ValueError(
            f"no run of {task.name!r} ended with a finite outer loss in {len(reports)} "
            "estimates: start from other hyperparameters or narrow the space"
        )
    if samples_by_choice(task):
        problem = sample_problem(task, seed, best.hparams)
    state = best.state
    if state is None:
        state = evaluator.kept(partial(_s_0, task, problem, best))
    metrics: Mapping[str, Any] = {}
    last = task.space.hparams(best.hparams, device=problem.device)
    if problem.metrics is not None:
        metrics = problem.metrics(state, last)
    held_back = held_out(problem, state, last)
    result = Result(
        task=task.name,
        method=type(estimator).__name__,
        seed=seed,
        hparams=mean_hparams(task.space, best.schedule),
        outer_loss=best.outer_loss,
        state=state,
        schedule=best.schedule,
        metrics={name: float(value) for name, value in metrics.items()},
        reports=reports,
        interrupted=interrupted,
        tuned=problem.module and partial(problem.module, state, last),
        start_holdout_loss=start_holdout,
        holdout_loss=held_back.get("holdout_loss", math.nan),
        standard_error=held_back.get("standard_error", math.nan),
        examples=held_back.get("examples", math.nan),
    )
    if result.overfitting:
        warnings.warn(f"{task.name}: {result.overfitting}", Overfitting, stacklevel=3)
    return result


def _held_back(task: Task, problem: BilevelProblem, report: Report) -> float:
    """The loss on data held back, after a run at constant λ."""
    hparams = task.space.hparams(report.hparams, device=problem.device)
    state = report.state
    if state is None:
        state, _ = plain_run(problem, hparams, task.horizon)
    return held_out(problem, state, hparams)["holdout_loss"]


def _s_0(task: Task, problem: BilevelProblem, report: Report) -> State:
    return problem.init(task.space.hparams(report.hparams, device=problem.device))


@contextmanager
def shown(
    progress: bool | Callable[[Report, float], None] | None,
    budget: float,
    waiting: str = "the first estimate is under way",
) -> Iterator[Callable[[Report, float], None]]:
    """What takes reports: the user's own, a bar or lines now and then, or nothing.

    Args:
        progress: see `optimize`.
        budget: in gradient evaluations.
        waiting: what is said before the first report.
    """
    if callable(progress):
        yield progress
    elif progress is not True:
        yield _ignore
    else:
        with Bar(budget, waiting) as bar:
            yield lambda report, best: bar.update(
                report.gradient_evals,
                f"outer loss {report.outer_loss:.5g} at step {report.inner_steps}, "
                f"best of a full run {best:.5g}",
            )


def _waiting(problem: BilevelProblem) -> str:
    """What is done before the first report."""
    compiles = isinstance(problem.step, CompiledStep | CompiledDescent)
    how = ", which compiles the step" if compiles else ""
    return f"the first estimate is under way{how}"


def _ignore(*args: Any) -> None:
    pass


def mean_hparams(space: Space, schedule: Schedule) -> Hparams:
    """The mean of a schedule in unconstrained coordinates, as natural values."""
    total = sum(steps for steps, _ in schedule)
    mean: dict[str, Any] = {}
    for steps, point in schedule:
        # In double precision: a constant schedule must give back its own λ.
        hparams = space.hparams(point, dtype=torch.float64)
        for name, value in space.unconstrained(hparams).items():
            mean[name] = mean.get(name, 0.0) + value * (steps / total)
    natural, dtype = space.natural(mean), torch.get_default_dtype()
    choices = {name: hparams[name] for name in space.choices if name in hparams}
    return {name: value.to(dtype) for name, value in natural.items()} | choices
