"""`raymeta optimize`."""

import argparse
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raymeta.cli import config, dry_run, output
from raymeta.cli.settings import setting

#: The folder of runs that have no name of their own.
NAME = "optimize"


@dataclass(frozen=True, kw_only=True)
class OptimizeSettings:
    """Settings of `raymeta optimize`."""

    task: str = setting("quadratic", "task, by name, or your own as path.py:Name")
    estimator: str = setting(
        "auto",
        "estimator of the hypergradient, by name, or your own as path.py:Name; auto: "
        "by the task",
    )
    hyper_lr: float | None = setting(
        None, "first hyper-step, in log units of a positive hyperparameter"
    )
    budget: float | None = setting(None, "gradient evaluations; automatic: the task's")
    seed: int = setting(0, "seeds the task's sample")
    name: str | None = setting(
        None,
        "folder of the results, which the same command goes on in; automatic: "
        "optimize, overwritten",
    )
    storage: str = setting("results", "where the folder is")
    workers: int = setting(
        1, "processes that compute one training together, on Ray Train"
    )
    gpus: int = setting(0, "GPUs of all workers together, as many for each")
    parallel: str = setting(
        "data",
        "what workers share out: data; tangents, of forward; population, of es and pes",
    )


def run(arguments: argparse.Namespace) -> None:
    """Descend with live progress; print what was learnt, write frame and figures."""
    settings = config.read(arguments, OptimizeSettings)
    from raymeta import tasks
    from raymeta.outer.arguments import estimator_of, require_hyper_lr, require_seed
    from raymeta.outer.parallel import layout_of
    from raymeta.tasks.base import budget_of

    task = tasks.get(settings.task)
    estimator = estimator_of(settings.estimator, task.horizon)
    require_hyper_lr(settings.hyper_lr)
    require_seed(settings.seed)
    layout = layout_of(settings.workers, settings.gpus, settings.parallel)
    budget, workers = budget_of(task, settings.budget), settings.workers
    kept = {"hyper_lr": settings.hyper_lr, "budget": budget, "seed": settings.seed}
    if arguments.dry_run:
        said = dry_run.of_optimization(settings, task, estimator, budget, workers)
        output.print_summary(said, arguments.json)
        return
    with ExitStack() as opened:
        with output.progress(arguments, as_json=arguments.json):
            found = _result(task, estimator, kept, settings, layout)
            folder, result = opened.enter_context(found)
        if not arguments.json:
            _print(task, result)
        if result.interrupted:
            raise KeyboardInterrupt
        files = _draw_loss_curves(task, result, settings, folder.path)
        if arguments.json:
            output.print_json({**_record(task, result), "files": files})
            return
        for file in files:
            print(f"drawn: {file}")


@contextmanager
def _result(
    task: Any,
    estimator: Any,
    kept: Mapping[str, Any],
    settings: OptimizeSettings,
    layout: Any,
) -> Iterator[tuple[Any, Any]]:
    """The folder and what was found; only a run of one's own name is kept to go on."""
    run = None
    if not layout.is_here:
        from raymeta.workers import Run

        run = Run(task, estimator, kept, layout, True)
    if settings.name is not None:
        from raymeta.search import named

        place = settings.name, settings.storage
        with named.folder_of(task, estimator, kept, *place) as folder:
            if run is not None:
                yield folder, run.continued(folder)
            else:
                yield folder, named.optimized(folder, task, estimator, kept, True)
        return
    from raymeta.outer.optimize import descended
    from raymeta.results.run_folder import RunFolder
    from raymeta.tasks import loading

    known = {"task": task.name, "estimator": repr(estimator), **kept}
    with RunFolder.open(
        settings.storage, NAME, "optimization", known, resume=False
    ) as folder:
        folder.record_run(loading.sources([task.name]))
        if run is not None:
            result = run.launched(folder.path)
        else:
            result = descended(task, estimator, **kept, progress=True)
        folder.write(result.frame)
        result.export(folder.path / "schedule.json")
        yield folder, result


def _record(task: Any, result: Any) -> dict[str, Any]:
    """What was found, for programs."""
    return {
        "task": result.task,
        "method": result.method,
        "seed": result.seed,
        "start_loss": result.start_loss,
        "outer_loss": result.outer_loss,
        "hparams": _point(task, result),
        "metrics": dict(result.metrics),
        "profile": result.profile,
        "overfitting": result.overfitting,
        "holdout_loss": result.holdout_loss,
        "gradient_evals": result.reports[-1].gradient_evals,
    }


def _point(task: Any, result: Any) -> Mapping[str, Any]:
    """The best λ as plain scalars by flat name, of what is used."""
    from raymeta.space import Space

    space = Space(**{name: task.space[name] for name in result.hparams})
    return space.point(result.hparams)


def _print(task: Any, result: Any) -> None:
    """Every report, the best λ, what lies beside it, and its metrics."""
    from raymeta.results.profile import sentence

    hidden = ["task", "method", "family", "seed", "trial", "examples", "failure"]
    shown = result.frame.drop(columns=hidden)
    shown = shown.drop(
        columns=[
            name
            for name in ("holdout_loss", "standard_error")
            if shown[name].isna().all()
        ]
    )
    print(shown.to_string(index=False, na_rep="", float_format=lambda x: f"{x:.4g}"))
    if result.start_loss is not None:
        print(f"\nouter loss at the start {result.start_loss:.6g}", end="")
    print(f"\nbest outer loss {result.outer_loss:.6g} at")
    for name, value in _point(task, result).items():
        text = f"{value:.6g}" if isinstance(value, float) else value
        print(f"  {name} = {text}")
    if profile := result.profile:
        print(sentence(profile, result.start_loss, result.outer_loss))
    for name, value in result.metrics.items():
        print(f"{name} = {value:.6g}")
    if math.isfinite(result.holdout_loss):
        start, held = result.start_holdout_loss, result.holdout_loss
        print(f"holdout_loss = {held:.6g}, at the start {start:.6g}")


def _draw_loss_curves(
    task: Any, result: Any, settings: OptimizeSettings, folder: Path
) -> list[str]:
    """Training along the λ of the runs that improved on the ones before, at most 12."""
    import pandas as pd

    from raymeta import analysis
    from raymeta.outer.replay import loss_curve
    from raymeta.outer.result import better
    from raymeta.results.mirror import address

    problem = task.sample(settings.seed)
    start, *others = result.reports
    better_runs = [start._replace(schedule=[(task.horizon, start.hparams)])]
    best = start if better(start, None) else None
    for report in others:
        if better(report, best):
            best = report
            better_runs.append(report)
    # Backwards, so that the best run stays whatever is left out between.
    thinned = better_runs[:: -math.ceil(len(better_runs) / 12)][::-1]
    rows = [
        (report.outer_step, t, loss)
        for report in thinned
        for t, loss in enumerate(loss_curve(problem, task.space, report.schedule))
    ]
    frame = pd.DataFrame(rows, columns=["outer_step", "inner_steps", "outer_loss"])
    count = f"{len(better_runs) - 1} of {len(result.reports)}"
    title = f"{task.name}: the start, and the {count} estimates that improved on it"
    figure = analysis.draw_loss_curves(frame, title=title)
    files = analysis.save(figure, folder / "loss_curves")
    return [str(address(file)) for file in files]
