"""Launcher of a meta-training run on Ray Train's workers."""

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from raymeta.errors import one_line
from raymeta.results import mirror
from raymeta.results.atomic import atomic_write
from raymeta.results.jsonlines import JsonLines
from raymeta.runtime import ray_session
from raymeta.runtime.cluster import require_shared, room
from raymeta.runtime.interrupt import Interrupt
from raymeta.runtime.orphans import end_with_parent
from raymeta.runtime.serialization import REMEDY, Payload, pack
from raymeta.tasks import loading
from raymeta.train.checkpoints import last_step, seed_folder
from raymeta.train.config import TrainConfig
from raymeta.train.events import EVENTS, FAILED, STOP, Event
from raymeta.train.fitting import fit_all
from raymeta.train.process_group import ProcessGroup
from raymeta.train.scaling import POLL_S, Cluster, is_embedded, wait_for
from raymeta.train.worker import work

with ray_session.prepared():
    import ray
    from ray.train import (
        Checkpoint,
        Result,
        TrainingFailedError,
        get_context,
        get_preemption_info,
    )
    from ray.train.torch import TorchConfig, TorchTrainer, get_device

#: What Ray Train writes.
SCRATCH = ".ray"
#: The file of a checkpoint that Ray Train has.
CHECKPOINT = "checkpoint.pt"
#: What Ray Train raises where a run has ended too early.
ENDED = (TrainingFailedError, ray.exceptions.RayError)
#: Seconds that workers get to end their step after Ctrl-C.
STOP_S = 30.0


def run_on_ray(
    config: TrainConfig,
    path: Path,
    cluster: Cluster,
    *,
    show: Callable[[str], None],
    on_tick: Callable[[], None],
    stop: Callable[[], bool],
) -> tuple[Result | None, list[ValueError]]:
    """Train on Ray's workers, where rank 0 writes its events to events.jsonl.

    Seeds have workers of their own where several have room side by side, and then
    events and failures in their own folders; else they follow one another on the same.
    With the user's own `RunConfig`, whose run is one, they do, too.

    Args:
        config: the run's settings.
        path: its folder, which all nodes must see.
        cluster: the resources it asks for.
        show: prints a line for people.
        on_tick: is called several times a second.
        stop: says whether to end as by Ctrl-C.

    Returns:
        What Ray Train says, None where its files are not kept; and why trainings ended
        early: what a worker raised, or that workers died or failed too often.

    Raises:
        ValueError: config cannot be sent to workers; the cluster has too little.
        KeyboardInterrupt: Ctrl-C, before the training began or a second time.
    """
    payload = pack(config, "a learner and its family", loading.modules())
    seeds, stops = config.seeds, path / STOP
    stops.unlink(missing_ok=True)
    results: list[Result] = []
    failures: list[ValueError] = []
    homes: list[Path] = []
    at_most = 1 if cluster.kept else len(seeds)

    def done(place: int, result: Callable[[], Result]) -> None:
        try:
            results.append(_outcome(homes[place], result))
        except ValueError as failure:
            failures.append(failure)
            if len(homes) > 1:
                show(f"seed {seeds[place]} ends, the others go on: {failure}")
        if not cluster.kept:
            mirror.discard(homes[place] / SCRATCH)

    try:
        with on_cluster(cluster, path, show, stop, at_most) as asked:
            at_once = min(at_most, room(cluster.bundle) // cluster.most)
            alone = {seed_folder(path, seed): (seed,) for seed in seeds}
            groups = alone if at_once > 1 else {path: seeds}
            homes.extend(groups)
            if at_once > 1:
                show(f"{at_once} of {len(seeds)} seeds have room side by side")
            trainers = [
                _trainer(payload, path, home, group, cluster, config.keep)
                for home, group in groups.items()
            ]
            end = stops.touch
            fit_all(trainers, max(1, at_once), asked, on_tick, end, done, STOP_S)
    finally:
        stops.unlink(missing_ok=True)
        if not cluster.kept:
            for home in homes:
                mirror.discard(home / SCRATCH)
        mirror.sync(path)
        on_tick()
    return (results[0] if cluster.kept and results else None), failures


def _outcome(home: Path, result: Callable[[], Result]) -> Result:
    """What a trainer found.

    Raises:
        ValueError: what a worker has noted, or else what Ray Train says.
    """
    noted = home / FAILED
    try:
        found = result()
    except ENDED as error:
        if mirror.download(noted).exists():
            raise ValueError(noted.read_text(encoding="utf-8")) from error
        raise ValueError(
            f"the training ended too often, the last time because {reason(error)}; "
            "its checkpoints are kept: the same name goes on from there, and Ray's "
            "logs say more"
        ) from error
    # An attempt after the one that noted it ends at once, in peace.
    if mirror.download(noted).exists():
        raise ValueError(noted.read_text(encoding="utf-8"))
    return found


@contextmanager
def on_cluster(
    cluster: Cluster,
    path: Path,
    show: Callable[[str], None],
    stop: Callable[[], bool] = lambda: False,
    at_most: int = 1,
) -> Iterator[Callable[[], bool]]:
    """Ray with room for all workers, for the time of a run.

    Args:
        cluster: the resources it asks for.
        path: its folder, which all nodes must see.
        show: prints a line for people.
        stop: says whether to end as by Ctrl-C.
        at_most: so many times its workers are of use side by side.

    Yields:
        What says whether Ctrl-C, or `stop`, has asked the run to end.

    Raises:
        ValueError: the cluster has too little; a node does not see the folder.
        KeyboardInterrupt: Ctrl-C while it waits, or a second one.
    """
    growing = not is_embedded()
    with ray_session.running(cluster.cpus(at_most)), Interrupt() as interrupt:

        def asked() -> bool:
            return interrupt.requested or stop()

        wait_for(cluster, show, asked, growing=growing)
        if not mirror.is_remote(mirror.address(path)):
            require_shared(path)
        yield asked


def _trainer(
    payload: Payload,
    path: Path,
    home: Path,
    seeds: tuple[int, ...],
    cluster: Cluster,
    keep: int,
) -> TorchTrainer:
    """The trainer of some of a run's seeds.

    Args:
        payload: the run's settings.
        path: its folder.
        home: the folder of their events, and of what Ray Train writes; the same, or one
            in it.
        seeds: those that its workers train, one after the other.
        cluster: the resources it asks for.
        keep: checkpoints that Ray Train keeps.
    """
    home.mkdir(exist_ok=True)
    mirror.delete(home / FAILED)
    place = mirror.address(path.resolve())
    return TorchTrainer(
        _rank,
        train_loop_config={
            "payload": payload,
            "path": place,
            "group": "" if home == path else home.name,
            "on_gpu": cluster.on_gpu,
            "seeds": seeds,
            "launch": secrets.token_hex(8),
            "retries": cluster.counted_retries,
        },
        # Gloo carries losses and flags; gradients on GPUs have a group of their own.
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=cluster.scaling,
        run_config=cluster.run_config(
            f"{mirror.address(home.resolve())}/{SCRATCH}", keep
        ),
    )


def _rank(arguments: dict[str, Any]) -> None:
    """The training loop of a worker."""
    end_with_parent()
    context, group = get_context(), arguments["group"]
    rank, world = context.get_world_rank(), context.get_world_size()
    device, gradients = torch.device("cpu"), None
    if arguments["on_gpu"] and torch.cuda.is_available():
        device, gradients = get_device(), dist.new_group(backend="nccl")
        without_tf32()
    ranks = ProcessGroup(rank, world, device, gradients)
    with (
        mirror.at(arguments["path"], fetch=(), follow=[STOP]) as path,
        closing(JsonLines(path / group / EVENTS)) as log,
    ):
        home, stop = path / group, _StopFile(path / STOP)
        home.mkdir(exist_ok=True)
        if rank == 0:
            mirror.download(home / EVENTS)  # which it appends to
        if mirror.download(home / FAILED).exists():
            return  # every attempt would end like the one before

        def report(event: Event) -> None:
            log.append({"time": time.time(), **event})

        try:
            if rank == 0 and arguments["retries"] is not None:
                _require_progress(path, world, arguments, report)
            config = replace(arguments["payload"].open(), seeds=arguments["seeds"])
            work(config, path, ranks, report, stop.exists, _send, _preempted, group)
        except ValueError as error:
            _note_failure(home, str(error))
            raise
        except ModuleNotFoundError as error:
            rule = "workers must be able to load a learner and its family"
            _note_failure(home, f"{rule}, but {error}: {REMEDY}")
            raise
        except Exception as error:
            if rank == 0:  # which alone writes the log
                report({"event": "error", "reason": one_line(error)})
            raise


def without_tf32() -> None:
    """Full float32: gradients of gradients in TF32 have three digits.

    torch takes it for convolutions unless told.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def _require_progress(
    path: Path,
    workers: int,
    arguments: dict[str, Any],
    report: Callable[[Event], None],
) -> None:
    """Raise ValueError after too many attempts in a row without a new checkpoint.

    Those that came after progress are not counted: a long run on spot instances loses
    workers often.
    """
    steps = [last_step(seed_folder(path, seed)) for seed in arguments["seeds"]]
    done = [-1 if step is None else step for step in steps]
    launch, retries = arguments["launch"], arguments["retries"]
    now = {"launch": launch, "done": done, "workers": workers}
    report({"event": "attempt", **now})
    events = JsonLines(path / arguments["group"] / EVENTS).read()
    attempts = [e for e in events if e.get("launch") == launch]
    idle = list(takewhile(lambda e: e["done"] == done, reversed(attempts)))
    # Where there are more workers than before, none has died: some have come.
    used = sum(new["workers"] <= old["workers"] for new, old in pairwise(idle))
    if used <= retries:
        return
    said = [e["reason"] for e in events if e["event"] == "error"]
    last = f"; the last one said: {said[-1]}" if said else ""
    raise ValueError(
        f"workers died or failed {used} times without a checkpoint between, and "
        f"retries={retries}{last}; the same name goes on from the last checkpoint"
    )


def _preempted() -> bool:
    """Whether a worker's node is about to be taken away."""
    return get_preemption_info() is not None


def reason(error: Exception) -> str:
    """Why Ray Train has given up, in one line: one of `ENDED`."""
    ranks: dict[int, Exception] = getattr(error, "worker_failures", {})
    dead = (r for r, e in ranks.items() if isinstance(e, ray.exceptions.ActorDiedError))
    for rank in dead:
        return f"the process of rank {rank} died"
    first, cause = next(iter(ranks.items()), (None, error))
    last = str(cause).strip().splitlines()[-1:] or [type(cause).__name__]
    what = " ".join(last[0].split())
    return what if first is None else f"rank {first} says: {what}"


def _send(metrics: dict[str, Any], newest: Path | None) -> None:
    """Report to Ray Train; as a checkpoint, a folder with the one that is given."""
    if newest is None:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(newest, Path(folder) / CHECKPOINT)
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _note_failure(home: Path, said: str) -> None:
    """Tell the driver, and the next attempt, in one piece: all ranks may fail alike."""
    with atomic_write(home / FAILED) as file:
        file.write(said.encode())


class _StopFile:
    """Whether a file exists; looks for it at most every `POLL_S`."""

    def __init__(self, path: Path) -> None:
        self._path, self._looked, self._found = path, 0.0, False

    def exists(self) -> bool:
        if time.monotonic() - self._looked > POLL_S:
            self._looked, self._found = time.monotonic(), self._path.exists()
        return self._found
