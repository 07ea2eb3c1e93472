"""The command line: parse, call one function, print."""

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raymeta import config


def _setting(default: Any, help_: str) -> Any:
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Settings of `raymeta compare`."""

    tasks: tuple[str, ...] = _setting(("digits",), "tasks, by name")
    methods: tuple[str, ...] | None = _setting(None, "methods; automatic: all")
    budget: float | None = _setting(
        None, "gradient evaluations per task, method and seed; automatic: the task's"
    )
    seeds: int = _setting(3, "how many seeds, from 0")
    name: str | None = _setting(
        None, "folder of the results; the same name resumes; automatic: task and time"
    )
    storage: str = _setting("results", "where the folder is")
    slots: int | None = _setting(None, "trials at once; automatic: Ray's CPUs")


@dataclass(frozen=True, kw_only=True)
class OptimizeSettings:
    """Settings of `raymeta optimize`."""

    task: str = _setting("quadratic", "task, by name")
    estimator: str = _setting("forward", "estimator of the hypergradient, by name")
    hyper_lr: float | None = _setting(
        None, "first hyper-step, in log units of a positive hyperparameter"
    )
    budget: float | None = _setting(None, "gradient evaluations; automatic: the task's")
    seed: int = _setting(0, "of the task's sample")
    name: str = _setting("optimize", "folder of the results; overwritten")
    storage: str = _setting("results", "where the folder is")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (2 for bad input, 130 for Ctrl-C)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parsed = _parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except ValueError as error:
        print(f"raymeta: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"\nraymeta: interrupted{interrupt}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="raymeta",
        description="Hypergradients against black-box search, on Ray.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[..., None], help_: str, **settings: type):
        sub = commands.add_parser(name, help=help_, description=help_)
        sub.set_defaults(run=run)
        if settings:
            config.add_flags(sub, settings["settings"])
        return sub

    command(
        "compare",
        _compare,
        "compare methods on tasks at equal budgets, on Ray Tune",
        settings=CompareSettings,
    )
    command(
        "optimize",
        _optimize,
        "learn a task's hyperparameters by hypergradient descent, without Ray",
        settings=OptimizeSettings,
    )
    report = command("report", _report, "print and draw the results of a comparison")
    report.add_argument("folder", help="a folder of results, or a frame.parquet")
    command("list", _list, "tasks, methods and estimators by name")
    return parser


def _compare(arguments: argparse.Namespace) -> None:
    settings = config.read(arguments, CompareSettings)
    # Said at once: importing Ray takes seconds.
    print("raymeta: preparing the comparison", flush=True)
    from raymeta.search import compare, new_name

    name = settings.name or new_name(settings.storage, settings.tasks)
    try:
        compare(
            settings.tasks,
            settings.methods,
            budget=settings.budget,
            seeds=settings.seeds,
            name=name,
            storage=settings.storage,
            slots=settings.slots,
        )
    except KeyboardInterrupt:
        command = shlex.join([sys.argv[0], *_flags(settings, name=name)])
        frame = Path(settings.storage) / name / "frame.parquet"
        kept = f"what was reported is in {frame}; " if frame.exists() else ""
        raise KeyboardInterrupt(f": {kept}go on with\n  {command}") from None
    _summarize(Path(settings.storage) / name)


def _flags(settings: CompareSettings, **changed: Any) -> list[str]:
    """The flags that give these settings."""
    values = {k: getattr(settings, k) for k in settings.__dataclass_fields__} | changed
    flags = ["compare"] if Path(sys.argv[0]).stem == "raymeta" else []
    for name, value in values.items():
        if value is not None:
            listed = value if isinstance(value, tuple) else (value,)
            flags += [f"--{name.replace('_', '-')}", *map(str, listed)]
    return flags


def _report(arguments: argparse.Namespace) -> None:
    _summarize(Path(arguments.folder))


def _summarize(path: Path) -> None:
    """Print the ranking; draw the figures beside the frame."""
    from raymeta import analysis

    frame = analysis.read(path)
    print("\n" + analysis.format_ranking(analysis.ranking(frame)) + "\n")
    folder = path if path.is_dir() else path.parent
    for figure in analysis.write_figures(frame, folder):
        print(f"drawn: {figure}")


def _optimize(arguments: argparse.Namespace) -> None:
    settings = config.read(arguments, OptimizeSettings)
    from raymeta import tasks
    from raymeta.hypergrad.registry import by_name
    from raymeta.loop import optimize

    folder = _writable(Path(settings.storage) / settings.name)
    if (folder / "comparison.json").exists():
        raise ValueError(
            f"--name: {folder} holds a comparison, which this would overwrite; choose "
            "another name"
        )
    task = tasks.get(settings.task)
    result = optimize(
        task,
        by_name(settings.estimator, task.horizon),
        hyper_lr=settings.hyper_lr,
        budget=settings.budget,
        seed=settings.seed,
    )
    frame = result.frame
    frame.to_parquet(folder / "frame.parquet")
    hidden = ["task", "method", "family", "seed", "trial", "failure"]
    shown = frame.drop(columns=hidden)
    print(shown.to_string(index=False, na_rep="", float_format=lambda x: f"{x:.4g}"))
    print(f"\nbest outer loss {result.outer_loss:.6g} at")
    for name, value in task.space.flatten(result.hparams).items():
        text = f"{value:.6g}" if isinstance(value, float) else value
        print(f"  {name} = {text}")
    for name, value in result.metrics.items():
        print(f"{name} = {value:.6g}")
    _draw_loss_curves(task, result, settings, folder)


def _draw_loss_curves(
    task: Any, result: Any, settings: OptimizeSettings, folder: Path
) -> None:
    """Training along the λ of the runs that improved on the ones before, at most 12."""
    import pandas as pd

    from raymeta import analysis
    from raymeta.loop import better, loss_curve

    problem = task.sample(settings.seed)
    start = result.reports[0]
    better_runs = [start._replace(schedule=[(task.horizon, start.hparams)])]
    best = None
    for report in result.reports:
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
        print(f"drawn: {path}")


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise ValueError(
            f"--storage: the folder {folder} cannot be written: {error.strerror}; "
            "choose another with --storage"
        ) from None
    return folder


def _list(arguments: argparse.Namespace) -> None:
    from raymeta import tasks
    from raymeta.hypergrad.registry import ESTIMATORS
    from raymeta.search.methods import METHODS

    print("tasks")
    for name in tasks.names():
        task = tasks.get(name)
        count = len(task.space.flat_domains())
        print(
            f"  {name:<16} {count} hyperparameters, {task.horizon} steps a run, "
            f"budget {task.budget:g}"
        )
    print("methods")
    for name, method in METHODS.items():
        print(f"  {name:<16} {method.family}")
    print("estimators")
    for name in ESTIMATORS:
        print(f"  {name}")


if __name__ == "__main__":
    raise SystemExit(main())
