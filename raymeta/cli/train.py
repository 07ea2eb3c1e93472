"""`raymeta train`."""

import argparse
from dataclasses import dataclass
from typing import Any

from raymeta.cli import config, dry_run, output
from raymeta.cli.report import summarize
from raymeta.cli.settings import resumable, setting


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of `raymeta train`."""

    algorithm: str = setting(
        "maml", "meta-learning algorithm by name, or your own learner: path.py:Name"
    )
    family: str = setting(
        "sinusoid", "family of tasks by name, or your own: path.py:Name"
    )
    data: str | None = setting(None, "path of your own data, for omniglot")
    workers: int = setting(2, "processes that share the tasks of a step")
    max_workers: int | None = setting(
        None,
        "workers at most: more than --workers when nodes come, down to it when they go"
        "; automatic: --workers",
    )
    gpus: int = setting(0, "GPUs of all workers (the most) together, as many for each")
    cpus_per_worker: float | None = setting(None, "CPUs of each worker; automatic: 1")
    resources_per_worker: tuple[str, ...] | None = setting(
        None, "other resources of each worker, as NAME=NUMBER; automatic: none"
    )
    outer_steps: int | None = setting(None, "outer steps; automatic: the recipe's")
    tasks_per_step: int | None = setting(
        None, "tasks of an outer step, of all workers; automatic: the recipe's"
    )
    tasks_per_worker: int | None = setting(
        None, "in place of --tasks-per-step: tasks of each worker"
    )
    inner_lr: float | None = setting(
        None, "inner learning rate; automatic: the recipe's"
    )
    inner_steps: int | None = setting(None, "inner steps; automatic: the recipe's")
    outer_lr: float | None = setting(
        None, "outer learning rate; automatic: the recipe's"
    )
    optimizer: str | None = setting(
        None,
        "outer optimizer: a class of torch.optim, as 'AdamW(weight_decay=0.01)'; "
        "automatic: Adam",
    )
    scheduler: str | None = setting(
        None,
        "what changes the outer learning rate: a class of torch.optim.lr_scheduler, "
        "as CosineAnnealingLR; automatic: nothing",
    )
    micro_tasks: int | None = setting(
        None, "tasks that a worker adapts to at once, to save memory; automatic: all"
    )
    autocast: str | None = setting(
        None, "dtype of matrix products: bfloat16; automatic: that of the run"
    )
    clip_norm: float | None = setting(
        None, "longest meta-gradient; automatic: no limit"
    )
    context: int | None = setting(
        None, "context parameters, for cavia and functa; automatic: the recipe's"
    )
    ways: int | None = setting(None, "classes of a task; automatic: the family's")
    shots: int | None = setting(None, "support examples; automatic: the family's")
    queries: int | None = setting(None, "query examples; automatic: the family's")
    seeds: int = setting(
        1, "how many seeds, from 0; on Ray side by side where their workers have room"
    )
    val_tasks: int | None = setting(
        None, "held-out tasks that choose the best θ; automatic: the recipe's"
    )
    test_tasks: int | None = setting(
        None, "held-out tasks of the final evaluation; automatic: the recipe's"
    )
    test_steps: int | None = setting(
        None, "most inner steps of the final evaluation; automatic: the recipe's"
    )
    checkpoint_every: int = setting(
        100, "outer steps between validations, each with a checkpoint"
    )
    keep: int = setting(3, "checkpoints kept besides the best one")
    max_skips: int = setting(
        10, "updates skipped in a row, for want of finite numbers, before giving up"
    )
    engine: str = setting("functional", "what takes inner steps: functional or higher")
    compile: bool = setting(False, "compile the inner steps")
    dtype: str = setting("float32", "float32 or float64")
    wait: float | None = setting(
        None,
        "seconds to wait for CPUs and GPUs that are missing; automatic: 60, or 1,200 "
        "where the cluster launches nodes",
    )
    retries: int = setting(
        3, "how often to go on after workers died without a new checkpoint between"
    )
    name: str | None = setting(
        None,
        "folder of the results; the same name resumes, on any number of workers; "
        "automatic: algorithm, family and time",
    )
    storage: str = setting("results", "where the folder is; all nodes must see it")


def run(arguments: argparse.Namespace) -> None:
    """Meta-train; print the evaluation, draw figures and page."""
    settings = config.read(arguments, TrainSettings)
    with output.progress(arguments, as_json=arguments.json):
        # Said at once: importing torch and Ray takes seconds.
        print("raymeta: preparing the training", flush=True)
    from raymeta.results.run_folder import run_address, run_name
    from raymeta.train import recipe, train

    name = run_name(
        settings.storage, settings.name, [settings.algorithm, settings.family]
    )
    place = ("wait", "retries")
    scaled = {"workers", "max_workers", "gpus", "cpus_per_worker"}
    scaled |= {"resources_per_worker"}
    own = {"name", "seeds", "tasks_per_worker", "storage"} | scaled
    if settings.seeds < 1:
        raise ValueError(f"--seeds must be 1 or more, but got {settings.seeds}")
    chosen = {
        field: getattr(settings, field)
        for field in settings.__dataclass_fields__
        if field not in own | set(place)
    }
    chosen["seeds"] = tuple(range(settings.seeds))
    chosen["tasks_per_step"] = _tasks_per_step(settings)
    if arguments.dry_run:
        said = dry_run.of_training(settings, recipe(**chosen), settings.workers)
        output.print_summary(said, arguments.json)
        return
    with (
        output.progress(arguments, as_json=arguments.json),
        resumable("train", settings, name),
    ):
        train(
            recipe(**chosen),
            scaling=_scaling(settings),
            name=name,
            storage=settings.storage,
            **{field: getattr(settings, field) for field in place},
        )
    summarize(run_address(settings.storage, name), as_json=arguments.json)


def _scaling(settings: TrainSettings) -> Any:
    from raymeta.train.scaling import scaling_of

    most = settings.max_workers
    return scaling_of(
        (settings.workers, settings.workers if most is None else most),
        settings.gpus,
        settings.cpus_per_worker,
        dict(map(_amount, settings.resources_per_worker or ())),
    )


def _amount(text: str) -> tuple[str, float]:
    """A resource and how much of it."""
    name, _, number = text.partition("=")
    try:
        amount = float(number)
    except ValueError:
        name = ""
    if not name:
        raise ValueError(
            "--resources-per-worker needs NAME=NUMBER, as in special=1, but got "
            f"{text!r}"
        )
    return name, amount


def _tasks_per_step(settings: TrainSettings) -> int | None:
    if settings.tasks_per_worker is None:
        return settings.tasks_per_step
    if settings.tasks_per_step is not None:
        raise ValueError(
            f"give --tasks-per-step or --tasks-per-worker, but got both: "
            f"{settings.tasks_per_step} and {settings.tasks_per_worker}"
        )
    return settings.workers * settings.tasks_per_worker
