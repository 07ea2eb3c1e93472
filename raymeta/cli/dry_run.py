"""What a command would do: settings, runs, budget, and about how long it takes."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

#: Steps that are timed; the shortest counts.
STEPS = 5
#: Seconds that Ray and its workers take to start, see docs/benchmarks.md.
RAY_S = 20.0


def of_comparison(settings: Any) -> dict[str, Any]:
    """Of `raymeta compare`."""
    from raymeta.results.run_folder import run_address, run_name
    from raymeta.search.methods.base import SearchMethod
    from raymeta.search.plan import make_plan
    from raymeta.search.progress import opening
    from raymeta.tasks.base import sampled

    name = run_name(settings.storage, settings.name, settings.tasks)
    place = settings.tasks, settings.methods, settings.budget, settings.seeds
    plan = make_plan(*place, settings.at_once, settings.workers_per_trial)
    studies = [
        {
            **spec.key._asdict(),
            "budget": spec.budget,
            # Of searches that stop no trial early; a descent is one trial.
            "trials": int(spec.budget / spec.full_run)
            if isinstance(spec.method, SearchMethod)
            else 1,
        }
        for spec in plan.study_specs()
    ]
    slots = settings.slots or max(1, _cpus() // settings.workers_per_trial)
    each = {
        task.name: seconds_per_evaluation(task, sampled(task, plan.seeds[0]))
        for task in plan.tasks
    }
    seconds = sum(study["budget"] * each[study["task"]] for study in studies)
    trials = sum(study["trials"] for study in studies)
    total = sum(study["budget"] for study in studies)
    about = RAY_S + seconds / min(slots, max(trials, 1))
    text = [
        *_settings(settings),
        *opening(plan, run_address(settings.storage, name)),
        f"trials: {trials:,} or more, for methods that stop some early start others",
        f"budget: {total:,g} gradient evaluations in all",
        _about(about, f"{slots} at a time", each),
    ]
    return _said(settings, text, total, about, trials=trials, studies=studies)


def of_optimization(
    settings: Any, task: Any, estimator: Any, budget: float, workers: int
) -> dict[str, Any]:
    """Of `raymeta optimize`."""
    from raymeta.outer.first_look import first_look
    from raymeta.tasks.base import sampled

    problem = sampled(task, settings.seed)
    each = seconds_per_evaluation(task, problem)
    about = budget * each / workers + RAY_S * (workers > 1)
    text = [
        *_settings(settings),
        first_look(task, problem),
        f"{task.name} by {estimator!r}",
        f"budget: {budget:,g} gradient evaluations, as many as of "
        f"{budget / task.horizon:,.1f} runs of {task.horizon:,} steps",
        _about(about, f"{workers} at a time", {task.name: each}),
    ]
    return _said(settings, text, budget, about, trials=1)


def of_training(settings: Any, run: Any, workers: int) -> dict[str, Any]:
    """Of `raymeta train`; run is its `TrainConfig`."""
    from raymeta._tree import tree_leaves
    from raymeta.train.preflight import as_in_run, check, new_module

    theta = check(run)
    seed, share = run.seeds[0], -(-run.tasks_per_step // workers)
    module = new_module(run, seed)
    with as_in_run(run.dtype, seed):
        tasks = run.family.episodes(
            0, run.tasks_per_step, 0, share, seed=seed, split="train"
        )
        each = _shortest(lambda: module(tasks).loss.backward())
    steps = run.outer_steps * len(run.seeds)
    about = RAY_S + each * steps
    weights = sum(x.numel() for x in tree_leaves(theta))
    text = [
        *_settings(settings),
        f"{run.algorithm} on {run.family.name}: {weights:,} meta-parameters, "
        f"{run.outer_steps:,} outer steps of {run.tasks_per_step} tasks, seeds "
        f"{', '.join(map(str, run.seeds))}, outer_lr {run.outer_lr:g}",
        *(f"{name}: {value}" for name, value in run.knobs.items()),
        f"budget: {steps * run.tasks_per_step:,} tasks, on {workers} workers",
        f"about {_duration(about)}, for an outer step takes {each * 1e3:.3g} ms here; "
        "evaluations come on top",
    ]
    return _said(settings, text, float(steps * run.tasks_per_step), about)


def seconds_per_evaluation(task: Any, problem: Any) -> float:
    """Seconds of one gradient evaluation, which is what a training step costs here."""
    from raymeta.hypergrad.base import advance

    hparams = task.space.trim(task.space.initial(device=problem.device))
    state = problem.init(hparams)
    return _shortest(lambda: advance(problem, hparams, state, 0, 1))


def _shortest(function: Callable[[], Any]) -> float:
    times = []
    for _ in range(STEPS + 1):  # the first one may build what others use
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _cpus() -> int:
    return os.cpu_count() or 1


def _settings(settings: Any) -> list[str]:
    """The settings with what is automatic left out."""
    shown = [
        f"{name}={' '.join(map(str, v)) if isinstance(v, tuple) else v}"
        for name, v in asdict(settings).items()
        if v is not None
    ]
    return [f"settings: {', '.join(shown)}"]


def _said(
    settings: Any, text: list[str], budget: float, seconds: float, **more: Any
) -> dict[str, Any]:
    """What `raymeta.cli.output.print_summary` takes."""
    known = {"settings": asdict(settings), "budget": budget, "seconds": seconds}
    lines = [*text, "dry run: nothing was started or written"]
    return {**known, **more, "text": "\n".join(lines)}


def _about(seconds: float, how: str, each: dict[str, float]) -> str:
    costs = ", ".join(f"{s * 1e3:.3g} ms on {name}" for name, s in each.items())
    return (
        f"about {_duration(seconds)}, {how}, for a gradient evaluation takes {costs} "
        "here; estimators may need two to five times as long"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
