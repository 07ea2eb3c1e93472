"""Meta-training run: its folder, its workers, its frame."""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch

from raymeta import display
from raymeta.meta import MetaModule
from raymeta.process import preserved
from raymeta.results.integrity import DamagedFile
from raymeta.results.jsonlines import JsonLines
from raymeta.results.mirror import address, download
from raymeta.results.run_folder import RunFolder, run_address, run_name
from raymeta.results.tensorboard import TensorBoardWriter, show_training
from raymeta.runtime import source_code
from raymeta.runtime.interrupt import Interrupt, goes_on
from raymeta.runtime.progress import Progress, clock, count, wrap
from raymeta.train.checkpoints import (
    BEST,
    last_step,
    load,
    seed_folder,
    set_aside,
    step_file,
)
from raymeta.train.config import TrainConfig
from raymeta.train.events import EVENTS, FAILED, Event, ProgressText
from raymeta.train.metrics_log import merged, metrics_of, require_rows
from raymeta.train.preflight import check, new_module
from raymeta.train.process_group import ProcessGroup
from raymeta.train.recipes import arguments_of
from raymeta.train.worker import work
from raymeta.types import Tensors

if TYPE_CHECKING:  # only who asks for workers pays for the import of Ray
    from ray.train import Result, RunConfig, ScalingConfig

    from raymeta.train.scaling import Cluster

SAVE_EVERY_S = 5.0
#: Seeds with a live line.
MOST_LINES = 8
STORAGE = "results"


class TrainResult(NamedTuple):
    """What a meta-training run ends with.

    Attributes:
        frame: one row per seed, outer step and rank, and per evaluation; see
            `metrics_log.merged`.
        theta: seed -> the best θ on validation tasks, by name.
        evaluation: the frame's rows of test tasks: seed, inner_steps, outer_loss, ci95
            and metrics.
        config: the run's settings.
        ray_result: Ray Train's `Result`, where the run was given a `RunConfig` and had
            not finished before; else None.
    """

    frame: pd.DataFrame
    theta: dict[int, Tensors]
    evaluation: pd.DataFrame
    config: TrainConfig
    ray_result: "Result | None" = None

    def __repr__(self) -> str:
        return f"TrainResult({self._title()}: {display.entries(self._best())})"

    def _repr_html_(self) -> str:
        return display.table(self._title(), self._best())

    def _title(self) -> str:
        config = self.config
        return f"{config.algorithm} on {config.family.name}"

    def _best(self) -> dict[str, Any]:
        """Of each seed the outer loss on test tasks, after the most inner steps."""
        last = self.evaluation[
            self.evaluation["inner_steps"] == self.evaluation["inner_steps"].max()
        ]
        losses = dict(zip(last["seed"], last["outer_loss"], strict=True))
        return {
            "outer_steps": self.config.outer_steps,
            **{f"test_loss[seed {seed}]": float(x) for seed, x in losses.items()},
        }

    def plot(self) -> Any:
        """A figure of the loss over outer steps, and over inner steps on test tasks."""
        return display.figures().draw_meta_loss(self.frame)

    def module(self, seed: int = 0) -> MetaModule:
        """The meta-module with the best θ of a seed, in evaluation mode.

        Raises:
            ValueError: the run has no such seed.
        """
        if seed not in self.theta:
            raise ValueError(
                f"the run has the seeds {list(self.theta)}, but got seed={seed}: "
                "choose one of them"
            )
        module = new_module(self.config, seed)
        module.load_state_dict(self.theta[seed])
        return module.eval()


@preserved()
def train(
    config: TrainConfig,
    *,
    workers: int | tuple[int, int] | None = None,
    gpus: int = 0,
    scaling: "ScalingConfig | None" = None,
    run: "RunConfig | None" = None,
    name: str | None = None,
    storage: str | Path = STORAGE,
    wait: float | None = None,
    retries: int | None = None,
    progress: bool | Callable[[str], None] = True,
) -> TrainResult:
    """Meta-train, on Ray Train's workers or in this process.

    A Ray that runs already, or that `RAY_ADDRESS` names, is used; otherwise an embedded
    one starts and ends with the run. The same name continues a run from its last
    checkpoint, on any number of workers: the tasks of a step are the same. A finished
    run is not run again. On Ray, seeds are trained side by side as far as there is room
    for their workers, and give the same rows and checkpoints as one after another; one
    that fails is named, and the others go on.

    Args:
        config: settings of what is learnt, and how.
        workers: processes that share the tasks of a step; (least, most): as many of
            them as there is room for, fewer when nodes go, more when they come; None:
            this one, without Ray.
        gpus: GPUs of all workers together, as many for each; gradients travel by NCCL.
            With (least, most) workers, of the most.
        scaling: Ray Train's `ScalingConfig`, in place of workers and gpus: CPUs, custom
            resources and accelerator of a worker, placement, an elastic number.
        run: Ray Train's `RunConfig`: callbacks, failures, checkpoints, logging, the
            workers' environment. Its name and storage are those of the results. Ray
            Train's own files are kept with it, and `TrainResult.ray_result`: the
            metrics and checkpoint that were reported at most every 10 s and at the end.
            Seeds then follow one another on the same workers: theirs is one run.
        name: name of the folder of results; algorithm, family and time by default.
        storage: the folder that holds it, which all nodes of a cluster must see; or its
            address on an object store.
        wait: seconds to wait for CPUs and GPUs that the cluster does not have yet; 60
            by default, 1,200 where it launches nodes itself.
        retries: number of times that it goes on after workers died without a new
            checkpoint between; 3 by default.
        progress: whether to print progress, or what takes its lines.

    Returns:
        The frame, as in `<storage>/<name>/frame.parquet`; the best θ; the evaluation.

    Raises:
        ValueError: something is impossible, or missing on the cluster; two arguments
            say the same; the name belongs to another run; too many outer steps of
            a seed in a row were not finite.
        KeyboardInterrupt: Ctrl-C; the frame and a checkpoint are in the folder.
    """
    if run is not None:
        from raymeta.train.scaling import place_of

        name, storage = place_of(run, name, storage, STORAGE)
    cluster = _cluster(config, workers, gpus, scaling, run, wait, retries)
    place = _device(gpus) if cluster is None else cluster
    return trained(config, place, name, storage, progress)


def trained(
    config: TrainConfig,
    place: "Cluster | torch.device",
    name: str | None,
    storage: str | Path,
    progress: bool | Callable[[str], None],
    *,
    start: Path | None = None,
    listen: Callable[[Event], None] = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """A run at its place, see `train`.

    Args:
        config: settings of what is learnt, and how.
        place: the workers, or the device of this process.
        name: name of the folder of results.
        storage: the folder that holds it.
        progress: whether to print progress, or what takes its lines.
        start: a folder with a seed's checkpoints, from which a new run goes on.
        listen: takes every event.
        stop: says whether to end as by Ctrl-C.
    """
    ray_result = None
    name = run_name(storage, name, [config.algorithm, config.family.name])
    display = Progress(progress)
    display.print(_opening(config, place, run_address(storage, name)))
    code = source_code.code_of(config.learner, config.family, config.optimizer)
    theta = check(config)
    ranks_write = ["parts/*", "seed-*/pictures.npz"]
    for each in (EVENTS, FAILED):
        ranks_write += [each, f"seed-*/{each}"]
    with (
        goes_on(name),
        RunFolder.open(
            storage, name, "training", config.identity(), follow=ranks_write
        ) as home,
    ):
        if start is not None and last_step(_seed(home, config.seeds[0])) is None:
            shutil.copytree(start, _seed(home, config.seeds[0]), dirs_exist_ok=True)
        for seed in config.seeds:
            display.print(set_aside(_seed(home, seed), config, theta))
        begun = any(last_step(_seed(home, seed)) is not None for seed in config.seeds)
        display.print(_differing(home, code) if begun else [])
        home.note(
            code=source_code.recorded(code),
            published=[figure._asdict() for figure in config.published],
            recipe=arguments_of(config.learner),
        )
        if home.noted("finished") == config.goal() and home.frame.exists():
            display.print(["it had finished before"])
        else:
            home.note(finished=None)
            ray_result = _Driver(config, home, display, listen, stop).go(place)
            home.note(finished=config.goal())
        frame = home.read()
        best = {seed: _theta(config, home, seed, theta) for seed in config.seeds}
        display.print([f"finished in {clock(display.elapsed)}: {address(home.frame)}"])
    evaluation = frame[frame["split"] == "test"].reset_index(drop=True)
    return TrainResult(frame, best, evaluation, config, ray_result)


class _Driver:
    """The driver of a run: starts it, shows it, and keeps its frame."""

    def __init__(
        self,
        config: TrainConfig,
        home: RunFolder,
        display: Progress,
        listen: Callable[[Event], None],
        stop: Callable[[], bool],
    ) -> None:
        self._config, self._home, self._display = config, home, display
        self._listen, self._stop = listen, stop
        several = len(config.seeds) > 1
        homes = [home.path, *(_seed(home, seed) for seed in config.seeds)]
        #: Of all seeds together, and of each where they have workers of their own.
        self._told = [
            (JsonLines(each / EVENTS), ProgressText(config.outer_steps, several))
            for each in homes
        ]
        for log, _ in self._told:
            log.read_new()  # what earlier attempts reported
            if log.damage:
                display.print([log.damage])
        self._tensorboard = TensorBoardWriter(home.path)
        self._due = time.monotonic() + SAVE_EVERY_S

    def go(self, place: "Cluster | torch.device") -> "Result | None":
        """Train to the end, on a `Cluster` or on a device of this process.

        Returns:
            What Ray Train says, where its files are kept.
        """
        self._home.record_run()
        if self._home.frame.exists():
            with suppress(DamagedFile):  # it is made anew
                require_rows(self._home.path / "parts", self._home.read())
        self._save()  # readable from now on
        result, failures = None, list[ValueError]()
        try:
            if isinstance(place, torch.device):
                self._here(place)
            else:
                result, failures = self._on_ray(place)
        finally:
            self._save()
        texts = [text for _, text in self._told]
        if any(text.stopped for text in texts):
            raise KeyboardInterrupt
        failures += [ValueError(said) for text in texts for said in text.failures]
        if failures:
            said = "; ".join(dict.fromkeys(map(str, failures)))
            raise ValueError(said) from failures[0].__cause__
        return result

    def _here(self, device: torch.device) -> None:
        path, ranks = self._home.path, ProcessGroup(device=device)
        with Interrupt() as interrupt:

            def asked() -> bool:
                return interrupt.requested or self._stop()

            text = self._told[0][1]
            work(self._config, path, ranks, partial(self._show, text), asked)

    def _on_ray(self, cluster: "Cluster") -> "tuple[Result | None, list[ValueError]]":
        from raymeta.train.ray_launcher import run_on_ray

        self._display.print(["starting Ray"])
        return run_on_ray(
            self._config,
            self._home.path,
            cluster,
            show=lambda line: self._display.print([line]),
            on_tick=self._read_along,
            stop=self._stop,
        )

    def _read_along(self) -> None:
        for log, text in self._told:
            for event in log.read_new():
                self._show(text, event)

    def _show(self, text: ProgressText, event: Event) -> None:
        """Show what a rank 0 reports; save the frame now and then."""
        self._listen(event)
        if lines := text.record(event):
            self._display.print(lines)
        elapsed = self._display.elapsed
        texts = [each for _, each in self._told]

        def live(width: int) -> list[str]:
            return [line for each in texts for line in each.live(elapsed, width)]

        self._display.update(lambda width: live(width)[:MOST_LINES])
        # Who is asked to stop may have little time.
        if time.monotonic() > self._due or text.stopped:
            self._save(text.stopped or self._tensorboard.is_due())

    def _save(self, show: bool = True) -> None:
        """Put the frame together, and plan the next time to spend at most 5 % on it."""
        start = time.monotonic()
        frame = merged(self._home.path / "parts")
        self._home.write(frame)
        if show:
            show_training(self._tensorboard, frame, metrics_of(frame))
        took = time.monotonic() - start
        self._due = start + max(SAVE_EVERY_S, 20 * took)


def _cluster(
    config: TrainConfig,
    workers: int | tuple[int, int] | None,
    gpus: int,
    scaling: "ScalingConfig | None",
    run: "RunConfig | None",
    wait: float | None,
    retries: int | None,
) -> "Cluster | None":
    """What is asked of the cluster, or None for this process."""
    if workers is None and scaling is None:
        if run is not None:
            raise ValueError(
                "a RunConfig is of a run on Ray Train, but without workers or scaling "
                "the run is in this process: give one of them, or leave run out"
            )
        return None
    from raymeta.train.scaling import Cluster

    cluster = Cluster.of(workers, gpus, scaling, run, wait, retries)
    if cluster.most > min(config.tasks_per_step, config.val_tasks, config.test_tasks):
        raise ValueError(
            f"every worker needs a task, but got workers={cluster.most} for "
            f"tasks_per_step={config.tasks_per_step}, val_tasks={config.val_tasks}, "
            f"test_tasks={config.test_tasks}: give more tasks or fewer workers"
        )
    return cluster


def _device(gpus: int) -> torch.device:
    """Where a run in this process computes."""
    if not 0 <= gpus <= torch.cuda.is_available():
        raise ValueError(
            f"a run in this process has {int(torch.cuda.is_available())} GPU, but got "
            f"gpus={gpus}: give less, or workers"
        )
    return torch.device("cuda" if gpus else "cpu")


def _opening(
    config: TrainConfig, place: "Cluster | torch.device", where_to: str
) -> list[str]:
    """What will run, and where the results go."""
    if isinstance(place, torch.device):
        where = "this process"
    elif place.least < place.most:
        where = f"{place.least} to {place.most} workers"
    else:
        where = count(place.least, "worker")
    head = f"meta-training {config.algorithm} on {config.family.name}:"
    parts = [
        f"{config.outer_steps:,} outer steps",
        f"{count(config.tasks_per_step, 'task')} a step on {where}",
        f"{count(len(config.seeds), 'seed')} ({', '.join(map(str, config.seeds))})",
        *(f"{name} {value}" for name, value in config.knobs.items()),
    ]
    return [*wrap(head, parts), f"results go to {where_to}"]


def _seed(home: RunFolder, seed: int) -> Path:
    """The folder of a seed's checkpoints and pictures."""
    return seed_folder(home.path, seed)


def _differing(home: RunFolder, code: Mapping[str, str]) -> list[str]:
    """That code is not as it was: a repaired run goes on from its checkpoint."""
    then = home.noted("code") or source_code.recorded(code)
    changed = source_code.changed(then, code)
    said = wrap("goes on with other code, for these changed:", changed)
    return said if changed else []


def _theta(config: TrainConfig, home: RunFolder, seed: int, theta: Tensors) -> Tensors:
    """The θ that was evaluated."""
    best = download(_seed(home, seed) / BEST)
    last = step_file(_seed(home, seed), config.outer_steps)
    return load(best if best.exists() else last, config, theta)["theta"]
