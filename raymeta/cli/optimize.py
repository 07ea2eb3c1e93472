"""`raymeta optimize`."""

import argparse
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raymeta.cli import config
from raymeta.cli.settings import setting
from raymeta.results.mirror import address


@dataclass(frozen=True, kw_only=True)
class OptimizeSettings:
    """Settings of `raymeta optimize`."""

    task: str = setting("quadratic", "task, by name, or your own as path.py:Name")
    estimator: str = setting(
        "auto", "estimator of the hypergradient, by name; auto: by the task"
    )
    hyper_lr: float | None = setting(
        None, "first hyper-step, in log units of a positive hyperparameter"
    )
    budget: float | None = setting(None, "gradient evaluations; automatic: the task's")
    seed: int = setting(0, "seeds the task's sample")
    name: str = setting("optimize", "folder of the results; overwritten")
    storage: str = setting("results", "where the folder is")


def run(arguments: argparse.Namespace) -> None:
    """Descend with live progress; print what was learnt, write frame and figures."""
    settings = config.read(arguments, OptimizeSettings)
    from raymeta import tasks
    from raymeta.outer.arguments import estimator_of
    from raymeta.outer.optimize import optimize
    from raymeta.results.run_folder import RunFolder, run_name

    task = tasks.get(settings.task)
    estimator = estimator_of(settings.estimator, task.horizon)
    name = run_name(settings.storage, settings.name, [])
    kept = {k: v for k, v in asdict(settings).items() if k != "storage"}
    with RunFolder.open(
        settings.storage, name, "optimization", kept, resume=False
    ) as folder:
        folder.record_run(tasks.loading.sources([task.name]))
        result = optimize(
            task,
            estimator,
            hyper_lr=settings.hyper_lr,
            budget=settings.budget,
            seed=settings.seed,
        )
        folder.write(result.frame)
        result.export(folder.path / "schedule.json")
        _print(task, result)
        if result.interrupted:
            raise KeyboardInterrupt
        _draw_loss_curves(task, result, settings, folder.path)


def _print(task: Any, result: Any) -> None:
    """Every report, the best λ, what lies beside it, and its metrics."""
    from raymeta.results.profile import sentence
    from raymeta.space import Space

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
    space = Space(**{name: task.space[name] for name in result.hparams})  # what is used
    if result.start_loss is not None:
        print(f"\nouter loss at the start {result.start_loss:.6g}", end="")
    print(f"\nbest outer loss {result.outer_loss:.6g} at")
    for name, value in space.point(result.hparams).items():
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
) -> None:
    """Training along the λ of the runs that improved on the ones before, at most 12."""
    import pandas as pd

    from raymeta import analysis
    from raymeta.outer.replay import loss_curve
    from raymeta.outer.result import better

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
    for path in analysis.save(figure, folder / "loss_curves"):
        print(f"drawn: {address(path)}")
