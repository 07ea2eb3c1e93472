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

#: Files in jobs/ that are a command themselves.
SCRIPTS = ("compare.py", "meta_train.py")


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


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of `raymeta train`."""

    algorithm: str = _setting("maml", "meta-learning algorithm, by name")
    family: str = _setting("sinusoid", "family of tasks, by name")
    data: str | None = _setting(None, "path of your own data, for omniglot")
    workers: int = _setting(2, "processes that share the tasks of a step")
    gpus: int = _setting(0, "GPUs of all workers together, as many for each")
    outer_steps: int | None = _setting(None, "outer steps; automatic: the recipe's")
    tasks_per_step: int | None = _setting(
        None, "tasks of an outer step, of all workers; automatic: the recipe's"
    )
    tasks_per_worker: int | None = _setting(
        None, "in place of --tasks-per-step: tasks of each worker"
    )
    inner_lr: float | None = _setting(
        None, "inner learning rate; automatic: the recipe's"
    )
    inner_steps: int | None = _setting(None, "inner steps; automatic: the recipe's")
    outer_lr: float | None = _setting(
        None, "outer learning rate, of Adam; automatic: the recipe's"
    )
    clip_norm: float | None = _setting(
        None, "longest meta-gradient; automatic: no limit"
    )
    context: int | None = _setting(
        None, "context parameters, for cavia and functa; automatic: the recipe's"
    )
    ways: int | None = _setting(None, "classes of a task; automatic: the family's")
    shots: int | None = _setting(None, "support examples; automatic: the family's")
    queries: int | None = _setting(None, "query examples; automatic: the family's")
    seeds: int = _setting(1, "how many seeds, from 0, one after the other")
    val_tasks: int | None = _setting(
        None, "held-out tasks that choose the best θ; automatic: the recipe's"
    )
    test_tasks: int | None = _setting(
        None, "held-out tasks of the final evaluation; automatic: the recipe's"
    )
    test_steps: int | None = _setting(
        None, "most inner steps of the final evaluation; automatic: the recipe's"
    )
    checkpoint_every: int = _setting(
        100, "outer steps between validations, each with a checkpoint"
    )
    keep: int = _setting(3, "checkpoints kept besides the best one")
    max_skips: int = _setting(
        10, "updates skipped in a row, for want of finite numbers, before giving up"
    )
    engine: str = _setting("functional", "what takes inner steps: functional or higher")
    compile: bool = _setting(False, "compile the inner steps")
    dtype: str = _setting("float32", "float32 or float64")
    wait: float = _setting(60.0, "seconds to wait for CPUs and GPUs that are missing")
    retries: int = _setting(3, "how often to go on after workers died")
    name: str | None = _setting(
        None,
        "folder of the results; the same name resumes, on any number of workers; "
        "automatic: algorithm, family and time",
    )
    storage: str = _setting("results", "where the folder is; all nodes must see it")


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
    command(
        "train",
        _train,
        "meta-learn on a family of tasks, data-parallel on Ray Train",
        settings=TrainSettings,
    )
    report = command("report", _report, "print and draw the results of a run")
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
        raise _resumable("compare", settings, name) from None
    _summarize(Path(settings.storage) / name)


def _resumable(command: str, settings: Any, name: str) -> KeyboardInterrupt:
    """Ctrl-C, with the command that goes on from there."""
    program = ["python"] * sys.argv[0].endswith(".py") + [sys.argv[0]]
    line = shlex.join([*program, *_flags(command, settings, name=name)])
    frame = Path(settings.storage) / name / "frame.parquet"
    kept = f"what was reported is in {frame}; " if frame.exists() else ""
    return KeyboardInterrupt(f": {kept}go on with\n  {line}")


def _flags(command: str, settings: Any, **changed: Any) -> list[str]:
    """The flags that give these settings."""
    values = {k: getattr(settings, k) for k in settings.__dataclass_fields__} | changed
    flags = [] if Path(sys.argv[0]).name in SCRIPTS else [command]
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            listed = value if isinstance(value, tuple) else (value,)
            flags += [f"--{flag}", *map(str, listed)]
    return flags


def _train(arguments: argparse.Namespace) -> None:
    settings = config.read(arguments, TrainSettings)
    # Said at once: importing torch and Ray takes seconds.
    print("raymeta: preparing the training", flush=True)
    from raymeta.folder import new_name
    from raymeta.train import recipe, train

    name = settings.name or new_name(
        settings.storage, [settings.algorithm, settings.family]
    )
    place = ("workers", "gpus", "wait", "retries", "storage")
    own = {"name", "seeds", "tasks_per_worker", *place}
    chosen = {
        field: getattr(settings, field)
        for field in settings.__dataclass_fields__
        if field not in own
    }
    chosen["seeds"] = tuple(range(settings.seeds))
    chosen["tasks_per_step"] = _tasks_per_step(settings)
    try:
        train(
            recipe(**chosen),
            name=name,
            **{field: getattr(settings, field) for field in place},
        )
    except KeyboardInterrupt:
        raise _resumable("train", settings, name) from None
    _summarize(Path(settings.storage) / name)


def _tasks_per_step(settings: TrainSettings) -> int | None:
    if settings.tasks_per_worker is None:
        return settings.tasks_per_step
    if settings.tasks_per_step is not None:
        raise ValueError(
            f"give --tasks-per-step or --tasks-per-worker, but got both: "
            f"{settings.tasks_per_step} and {settings.tasks_per_worker}"
        )
    return settings.workers * settings.tasks_per_worker


def _report(arguments: argparse.Namespace) -> None:
    _summarize(Path(arguments.folder))


def _summarize(path: Path) -> None:
    """Print the ranking or the evaluation; draw the figures beside the frame."""
    from raymeta import analysis

    folder = path if path.is_dir() else path.parent
    if analysis.is_training(folder):
        frame = analysis.read_training(folder)
        print("\n" + analysis.format_evaluation(frame) + "\n")
        figures = analysis.write_training_figures(frame, folder)
    else:
        frame = analysis.read(path)
        print("\n" + analysis.format_ranking(analysis.ranking(frame)) + "\n")
        figures = analysis.write_figures(frame, folder)
    for figure in figures:
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
    from raymeta.train import ALGORITHMS, KIND_OF

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
    print("meta-learning algorithms")
    for name, algorithm in ALGORITHMS.items():
        families = [
            family for family, kind in KIND_OF.items() if kind in algorithm.inner
        ]
        print(f"  {name:<16} {' '.join(families)}")


if __name__ == "__main__":
    raise SystemExit(main())
