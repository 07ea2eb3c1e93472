"""The command line: parse, call one function, print."""

import argparse
import errno
import math
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raymeta import config
from raymeta.storage import address, at, is_remote

#: Files in jobs/ that are a command themselves.
SCRIPTS = ("compare.py", "meta_train.py")


def _setting(default: Any, help_: str) -> Any:
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Settings of `raymeta compare`."""

    tasks: tuple[str, ...] = _setting(
        ("digits",), "tasks, by name, or your own as path.py:Name"
    )
    methods: tuple[str, ...] | None = _setting(
        None,
        "methods, or estimators, by name; `all`: every method of `raymeta list`; "
        "automatic: random asha tpe short_term long_term forward",
    )
    budget: float | None = _setting(
        None, "gradient evaluations per task, method and seed; automatic: the task's"
    )
    seeds: int = _setting(3, "how many seeds, from 0")
    name: str | None = _setting(
        None, "folder of the results; the same name resumes; automatic: task and time"
    )
    storage: str = _setting("results", "where the folder is")
    slots: int | None = _setting(None, "trials at once; automatic: Ray's CPUs")
    gpus_per_trial: float | None = _setting(
        None, "GPUs of a trial, or a share of one; automatic: none"
    )


@dataclass(frozen=True, kw_only=True)
class OptimizeSettings:
    """Settings of `raymeta optimize`."""

    task: str = _setting("quadratic", "task, by name, or your own as path.py:Name")
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
    max_workers: int | None = _setting(
        None,
        "workers at most: more than --workers when nodes come, down to it when they go"
        "; automatic: --workers",
    )
    gpus: int = _setting(0, "GPUs of all workers (the most) together, as many for each")
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
    wait: float | None = _setting(
        None,
        "seconds to wait for CPUs and GPUs that are missing; automatic: 60, or 1,200 "
        "where the cluster launches nodes",
    )
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
        sys.stdout.flush()
    except ValueError as error:
        print(f"raymeta: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of `raymeta list | head` has seen enough; nothing is left to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        print(
            f"raymeta: error: the disk of the results is full ({error}); what was "
            "written before is whole: make room, and the same --name goes on from it",
            file=sys.stderr,
        )
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
    report = command(
        "report", _report, "print and draw the results of a run, as one HTML page"
    )
    report.add_argument("folder", help="a folder of results, or a frame.parquet")
    report.add_argument(
        "--surface",
        nargs=2,
        metavar=("X", "Y"),
        help="compute the loss over these two hyperparameters, and loss curves along "
        "what was learnt, for the page; charged to no method",
    )
    report.add_argument(
        "--task",
        metavar="STR",
        help="of the surface (default: every task of the comparison that has both)",
    )
    report.add_argument(
        "--points",
        type=int,
        default=11,
        metavar="INT",
        help="of the surface along each side (default: 11)",
    )
    command("list", _list, "tasks, methods and estimators by name")
    return parser


def _compare(arguments: argparse.Namespace) -> None:
    settings = config.read(arguments, CompareSettings)
    # Said at once: importing Ray takes seconds.
    print("raymeta: preparing the comparison", flush=True)
    from raymeta.search import compare, new_name

    name = settings.name or new_name(settings.storage, settings.tasks)
    with at(settings.storage, name) as storage:
        try:
            compare(
                settings.tasks,
                settings.methods,
                budget=settings.budget,
                seeds=settings.seeds,
                name=name,
                storage=storage,
                slots=settings.slots,
                gpus_per_trial=settings.gpus_per_trial or 0.0,
            )
        except KeyboardInterrupt:
            raise _resumable("compare", settings, storage / name) from None
        _summarize(storage / name)


def _resumable(command: str, settings: Any, folder: Path) -> KeyboardInterrupt:
    """Ctrl-C, with the command that goes on from there."""
    program = ["python"] * sys.argv[0].endswith(".py") + [sys.argv[0]]
    line = shlex.join([*program, *_flags(command, settings, name=folder.name)])
    frame = folder / "frame.parquet"
    kept = f"what was reported is in {address(frame)}; " if frame.exists() else ""
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
    place = ("gpus", "wait", "retries")
    own = {"name", "seeds", "tasks_per_worker", "workers", "max_workers", "storage"}
    if settings.seeds < 1:
        raise ValueError(f"--seeds must be 1 or more, but got {settings.seeds}")
    chosen = {
        field: getattr(settings, field)
        for field in settings.__dataclass_fields__
        if field not in own | set(place)
    }
    chosen["seeds"] = tuple(range(settings.seeds))
    chosen["tasks_per_step"] = _tasks_per_step(settings)
    with at(settings.storage, name) as storage:
        try:
            train(
                recipe(**chosen),
                workers=(settings.workers, settings.max_workers or settings.workers),
                name=name,
                storage=storage,
                **{field: getattr(settings, field) for field in place},
            )
        except KeyboardInterrupt:
            raise _resumable("train", settings, storage / name) from None
        _summarize(storage / name)


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
    path = arguments.folder.rstrip("/")
    with at(
        path.rpartition("/")[0] if is_remote(path) else ".", Path(path).name
    ) as here:
        found = here / Path(path).name if is_remote(path) else Path(path)
        if arguments.surface:
            _survey(found, arguments.surface, arguments.task, arguments.points)
        _summarize(found)


def _survey(path: Path, names: Sequence[str], task: str | None, points: int) -> None:
    """Compute surfaces and loss curves of a comparison; write them beside its frame."""
    import pandas as pd

    from raymeta import analysis, tasks
    from raymeta.folder import write_frame
    from raymeta.progress import Progress
    from raymeta.surface import learning_curves, loss_surface

    frame, display = analysis.read(path), Progress(True)
    chosen = [tasks.get(name) for name in ([task] if task else _ran(frame))]
    chosen = [t for t in chosen if task or set(names) <= set(t.space.flat_domains())]
    if not chosen:
        raise ValueError(
            f"--surface needs a task with both {' and '.join(names)}, but {path} has "
            "none that is known by name: name two hyperparameters of one, or --task"
        )
    surfaces, curves = [], []
    for one in chosen:
        seed = int(frame.loc[frame["task"] == one.name, "seed"].min())
        around = analysis.best_hparams(frame, one.name, seed)
        method, learnt = analysis.learnt_hparams(frame, one.name, seed)
        display.say([f"{one.name}: {points * points + len(learnt)} runs, not charged"])

        def show(done: int, total: int, name: str = one.name) -> None:
            display.update(lambda width: [f"{name}: {done} of {total} runs"[:width]])

        curves.append(learning_curves(one, learnt, seed=seed).assign(method=method))
        surfaces.append(
            loss_surface(one, names, at=around, seed=seed, points=points, progress=show)
        )
    folder = path if path.is_dir() else path.parent
    for file, tables in (("surface", surfaces), ("curves", curves)):
        target = folder / f"{file}.parquet"
        if target.is_file():  # of other tasks
            before = pd.read_parquet(target)
            known = {one.name for one in chosen}
            tables.insert(0, before[~before["task"].isin(known)])
        write_frame(pd.concat(tables), target)


def _ran(frame: Any) -> list[str]:
    """The tasks of a frame that are known by name."""
    from raymeta import tasks

    return [name for name in sorted(set(frame["task"])) if name in tasks.names()]


def _summarize(path: Path) -> None:
    """Print the ranking or the evaluation; draw figures and page beside the frame."""
    from raymeta import analysis

    folder = path if path.is_dir() else path.parent
    if analysis.is_training(folder):
        frame = analysis.read_training(folder)
        published = analysis.read_published(folder)
        print("\n" + analysis.format_evaluation(frame, published) + "\n")
    else:
        frame = analysis.read(path)
        print("\n" + analysis.format_ranking(analysis.ranking(frame)) + "\n")
    for file in analysis.write_report(path):
        print(f"drawn: {address(file)}")


def _optimize(arguments: argparse.Namespace) -> None:
    settings = config.read(arguments, OptimizeSettings)
    from raymeta import tasks
    from raymeta.hypergrad.registry import by_name
    from raymeta.loop import Report, optimize
    from raymeta.progress import Progress, clock

    folder = _writable(Path(settings.storage) / settings.name)
    if (folder / "comparison.json").exists():
        raise ValueError(
            f"--name: {folder} holds a comparison, which this would overwrite; choose "
            "another name"
        )
    task = tasks.get(settings.task)
    estimator = by_name(settings.estimator, task.horizon)
    budget = task.budget if settings.budget is None else settings.budget
    shown_at = Progress(True)
    title = f"{task.name} by {settings.estimator}"
    shown_at.say([f"raymeta: {title}, {budget:,g} gradient evaluations"])

    def show(report: Report, best: float) -> None:
        spent, now = report.gradient_evals, report.outer_loss
        line = (
            f"{clock(shown_at.elapsed)} {spent / budget:4.0%} of the budget, outer "
            f"loss {now:.5g} at step {report.inner_steps}, "
            f"best of a full run {best:.5g}"
        )
        shown_at.update(lambda width: [line[:width]])

    result = optimize(
        task,
        estimator,
        hyper_lr=settings.hyper_lr,
        budget=settings.budget,
        seed=settings.seed,
        progress=show,
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
    if result.interrupted:
        raise KeyboardInterrupt(f": what was found is in {folder / 'frame.parquet'}")
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
    from raymeta.search.methods import METHODS, missing, summary
    from raymeta.train import ALGORITHMS, KIND_OF

    print("tasks")
    for name in tasks.names():
        try:
            task = tasks.get(name)
        except ValueError as error:  # of an installed package
            print(f"  {name:<18} {error}")
            continue
        count = len(task.space.flat_domains())
        print(
            f"  {name:<18} {count} hyperparameters, {task.horizon} steps a run, "
            f"budget {task.budget:g} ({tasks.origin(task)})"
        )
    print("methods")
    for name, method in METHODS.items():
        lacks = " ".join(map(repr, missing(method)))
        state = f"missing: pip install {lacks}" if lacks else "available"
        print(f"  {name:<16} {method.family:<14} {summary(method)} ({state})")
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
