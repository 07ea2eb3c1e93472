"""Launcher of a meta-training run on Ray Train's workers."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from raymeta.results import mirror
from raymeta.results.atomic import atomic_write
from raymeta.results.jsonlines import JsonLines
from raymeta.runtime import ray_session
from raymeta.runtime.cluster import groups, require_possible, require_shared
from raymeta.runtime.interrupt import Interrupt
from raymeta.runtime.progress import count
from raymeta.runtime.serialization import REMEDY, Payload, pack
from raymeta.train.config import TrainConfig
from raymeta.train.events import EVENTS, FAILED, STOP, Event
from raymeta.train.process_group import ProcessGroup
from raymeta.train.worker import work

with ray_session.prepared():
    import ray
    from ray.train import (
        FailureConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
        get_context,
    )
    from ray.train.torch import TorchConfig, TorchTrainer, get_device
    from ray.util.placement_group import placement_group, remove_placement_group

POLL_S = 0.2
#: What Ray Train writes; nobody reads it.
SCRATCH = ".ray"
#: Seconds that workers get to end their step after Ctrl-C.
STOP_S = 30.0
SHOW_EVERY_S = 10.0
WAIT_S = 60.0
#: A machine starts, loads its image and installs packages.
LAUNCH_S = 1200.0
#: How often an elastic run looks for room for more workers; growing costs it the steps
#: since its last checkpoint, and half a minute.
RESIZE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a run asks of the cluster.

    Attributes:
        workers: processes, one CPU each; the least of them where there may be more.
        most: greatest number of them; the same by default.
        gpus: GPUs of the most of them together.
        wait: seconds to wait for what is missing; None: `WAIT_S`, or `LAUNCH_S` where
            the cluster launches nodes itself.
        retries: number of times that the run goes on after workers died.
    """

    workers: int
    most: int = 0
    gpus: int = 0
    wait: float | None = None
    retries: int = 3

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.workers < 1:
            raise ValueError(
                f"a run on Ray needs workers >= 1, but got workers={self.workers}"
            )
        object.__setattr__(self, "most", self.most or self.workers)
        if self.most < self.workers:
            raise ValueError(
                "a run on Ray needs (least, most) workers in this order, but got "
                f"workers={(self.workers, self.most)}"
            )
        if self.gpus < 0 or self.gpus % self.most:
            raise ValueError(
                f"every worker gets as many GPUs, but got gpus={self.gpus} for "
                f"workers={self.most}: give 0 or a multiple of {self.most}"
            )
        if not ((self.wait is None or self.wait >= 0) and self.retries >= 0):
            raise ValueError(
                "a run on Ray needs wait >= 0 and retries >= 0, but got wait="
                f"{self.wait}, retries={self.retries}"
            )

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of one worker."""
        gpus = self.gpus // self.most
        return {"CPU": 1.0} | ({"GPU": float(gpus)} if gpus else {})


def run_on_ray(
    config: TrainConfig,
    path: Path,
    cluster: Cluster,
    *,
    show: Callable[[str], None],
    on_tick: Callable[[], None],
) -> None:
    """Train on Ray's workers, where rank 0 writes its events to events.jsonl.

    Args:
        config: the run's settings.
        path: its folder, which all nodes must see.
        cluster: the resources it asks for.
        show: prints a line for people.
        on_tick: is called several times a second.

    Raises:
        ValueError: config cannot be sent to workers; the cluster has too little; what
            a worker raises.
        KeyboardInterrupt: Ctrl-C, before the training began or a second time.
        ray.train.TrainingFailedError: workers died or failed too often.
    """
    payload = pack(config, "a learner and its family")
    stop, failed, scratch = (path / name for name in (STOP, FAILED, SCRATCH))
    for left in (stop, failed):
        left.unlink(missing_ok=True)
    with ray_session.running(cluster.workers), Interrupt() as interrupt:
        try:
            require_possible(cluster.bundle, cluster.workers, "workers")
            _wait_for(cluster, show, interrupt)
            if not mirror.is_remote(mirror.address(path)):
                require_shared(path)
            _fit(payload, path, cluster, interrupt, on_tick)
        except TrainingFailedError:
            if not failed.exists():
                raise
        finally:
            stop.unlink(missing_ok=True)
            mirror.discard(scratch)
            mirror.sync(path)
            on_tick()
    if failed.exists():
        raise ValueError(failed.read_text(encoding="utf-8"))


def _fit(
    payload: Payload,
    path: Path,
    cluster: Cluster,
    interrupt: Interrupt,
    on_tick: Callable[[], None],
) -> None:
    place = mirror.address(path.resolve())
    elastic = cluster.workers < cluster.most
    workers = (cluster.workers, cluster.most) if elastic else cluster.workers
    trainer = TorchTrainer(
        _rank,
        train_loop_config={
            "payload": payload,
            "path": place,
            "on_gpu": cluster.gpus > 0,
        },
        # Gloo carries losses and flags; gradients on GPUs have a group of their own.
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=workers,  # type: ignore[arg-type]
            elastic_resize_monitor_interval_s=RESIZE_S,
            use_gpu=cluster.gpus > 0,
            resources_per_worker=cluster.bundle,
        ),
        run_config=RunConfig(
            name="train",
            storage_path=f"{place}/{SCRATCH}",
            failure_config=FailureConfig(max_failures=cluster.retries),
        ),
    )
    fit = _Background(trainer.fit)
    asked = None
    while not fit.ended(POLL_S):
        on_tick()
        if interrupt.requested and asked is None:
            asked = time.monotonic()
            (path / STOP).touch()
        if asked is not None and time.monotonic() - asked > STOP_S:
            raise KeyboardInterrupt
    on_tick()
    fit.result()


def _rank(arguments: dict[str, Any]) -> None:
    """The training loop of a worker."""
    context = get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device, gradients = torch.device("cpu"), None
    if arguments["on_gpu"] and torch.cuda.is_available():
        device, gradients = get_device(), dist.new_group(backend="nccl")
        # Gradients of gradients in TF32 have three digits; torch takes it for
        # convolutions unless told.
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
    ranks = ProcessGroup(rank, world, device, gradients)
    with (
        mirror.at(arguments["path"], fetch=(), follow=[STOP]) as path,
        closing(JsonLines(path / EVENTS)) as log,
    ):
        stop = _StopFile(path / STOP)
        if rank == 0:
            mirror.download(path / EVENTS)  # which it appends to
        if mirror.download(path / FAILED).exists():
            return  # every attempt would end like the one before

        def report(event: Event) -> None:
            log.append({"time": time.time(), **event})

        try:
            work(arguments["payload"].open(), path, ranks, report, stop.exists)
        except ValueError as error:
            _note_failure(path, str(error))
            raise
        except ModuleNotFoundError as error:
            rule = "workers must be able to load a learner and its family"
            _note_failure(path, f"{rule}, but {error}: {REMEDY}")
            raise


def _note_failure(path: Path, said: str) -> None:
    """Tell the driver, and the next attempt, in one piece: all ranks may fail alike."""
    with atomic_write(path / FAILED) as file:
        file.write(said.encode())


class _StopFile:
    """Whether a file exists; looks for it at most every `POLL_S`."""

    def __init__(self, path: Path) -> None:
        self._path, self._looked, self._found = path, 0.0, False

    def exists(self) -> bool:
        if time.monotonic() - self._looked > POLL_S:
            self._looked, self._found = time.monotonic(), self._path.exists()
        return self._found


class _Background:
    """A function at work on a thread that does not outlive the program.

    `TorchTrainer.fit` in the main thread would take Ctrl-C for itself.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ended(self, timeout: float) -> bool:
        """Whether it ended within so many seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def result(self) -> None:
        """Raise what it raised."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:
            self._error = error


def _wait_for(
    cluster: Cluster, show: Callable[[str], None], interrupt: Interrupt
) -> None:
    """Until the cluster has room for all workers; an autoscaling one grows.

    Raises:
        ValueError: it has none in time.
        KeyboardInterrupt: Ctrl-C meanwhile.
    """
    wait = cluster.wait
    if wait is None:
        wait = LAUNCH_S if groups() else WAIT_S
    room = placement_group([cluster.bundle] * cluster.workers)
    begun, shown = time.monotonic(), -SHOW_EVERY_S
    try:
        while not room.wait(POLL_S):
            waited = time.monotonic() - begun
            if interrupt.requested:
                raise KeyboardInterrupt
            if waited > wait:
                raise ValueError(
                    f"{_missing(cluster)}; none came within wait={wait:g} s: "
                    "ask for less, wait longer, or add nodes"
                )
            # A free cluster takes a moment, too.
            if waited > 1 and waited - shown > SHOW_EVERY_S:
                shown = waited
                show(f"{_missing(cluster)}; waiting {wait - waited:.0f} s more")
    finally:
        remove_placement_group(room)


def _missing(cluster: Cluster) -> str:
    """What there is too little of."""
    total, free = ray.cluster_resources(), ray.available_resources()
    parts = []
    for name, each in cluster.bundle.items():
        needed = each * cluster.workers
        have, idle = total.get(name, 0.0), free.get(name, 0.0)
        what = count(int(needed), name)
        if have < needed:
            parts.append(f"{what}, but the cluster has {have:g}")
        elif idle < needed:
            parts.append(f"{what}, but only {idle:g} of {have:g} are free")
    what = " and ".join(parts) or "room that no combination of its nodes has"
    verb = "needs" if cluster.workers == 1 else "need"
    return f"{count(cluster.workers, 'worker')} {verb} {what}"
