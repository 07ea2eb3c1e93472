"""Scaling of a run on Ray Train: what it asks of the cluster, and the wait for it."""

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from raymeta.errors import said
from raymeta.runtime import ray_session
from raymeta.runtime.cluster import groups, require_possible
from raymeta.runtime.progress import count

with ray_session.prepared():
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.constants import DEFAULT_STORAGE_PATH
    from ray.util.placement_group import placement_group, remove_placement_group

POLL_S = 0.2
SHOW_EVERY_S = 10.0
WAIT_S = 60.0
#: A machine starts, loads its image and installs packages.
LAUNCH_S = 1200.0
#: How often an elastic run looks for room for more workers; growing costs it the steps
#: since its last checkpoint, and half a minute.
RESIZE_S = 60.0
RETRIES = 3
#: How Ray Train names a run that has no name.
_UNNAMED = "ray_train_run-"


def scaling_of(
    workers: int | tuple[int, int],
    gpus: int = 0,
    cpus_per_worker: float | None = None,
    resources_per_worker: Mapping[str, float] | None = None,
) -> ScalingConfig:
    """The `ScalingConfig` of a number of workers, one CPU each by default.

    Args:
        workers: their number, or (least, most).
        gpus: GPUs of the most of them together.
        cpus_per_worker: CPUs of each.
        resources_per_worker: other resources of each, by name.

    Raises:
        ValueError: a number is out of its range.
    """
    least, most = workers if isinstance(workers, tuple) else (workers, workers)
    if least < 1:
        raise ValueError(f"a run on Ray needs workers >= 1, but got workers={least}")
    if most < least:
        raise ValueError(
            "a run on Ray needs (least, most) workers in this order, but got "
            f"workers={(least, most)}"
        )
    if gpus < 0 or gpus % most:
        raise ValueError(
            f"every worker gets as many GPUs, but got gpus={gpus} for "
            f"workers={most}: give 0 or a multiple of {most}"
        )
    each = {"CPU": 1.0 if cpus_per_worker is None else cpus_per_worker}
    each |= {"GPU": gpus / most} if gpus else {}
    each |= resources_per_worker or {}
    _require_amounts(each)
    return ScalingConfig(  # type: ignore[call-arg]
        num_workers=(least, most) if least < most else least,  # type: ignore[arg-type]
        use_gpu=gpus > 0,
        resources_per_worker=each,
        elastic_resize_monitor_interval_s=RESIZE_S,
    )


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a run asks of the cluster, and of Ray Train.

    Attributes:
        scaling: number of workers, resources of each, and where they are placed.
        run: callbacks, failures, checkpoints and logging of Ray Train.
        wait: seconds to wait for what is missing; None: `WAIT_S`, or `LAUNCH_S` where
            the cluster launches nodes itself.
        retries: number of times that the run goes on after workers died without a new
            checkpoint between.
        kept: whether Ray Train's own files are kept beside ours.
    """

    scaling: ScalingConfig
    run: RunConfig = field(default_factory=lambda: RunConfig())
    wait: float | None = None
    retries: int = RETRIES
    kept: bool = False

    @classmethod
    def of(
        cls,
        workers: int | tuple[int, int] | None,
        gpus: int,
        scaling: ScalingConfig | None,
        run: RunConfig | None,
        wait: float | None,
        retries: int | None,
    ) -> Self:
        """Of the arguments of `raymeta.train`.

        Raises:
            ValueError: a number is out of its range; two arguments say the same; an
                object that is not Ray Train's.
        """
        if scaling is None:
            assert workers is not None
            scaling = scaling_of(workers, gpus)
        else:
            _require_only_scaling(scaling, workers, gpus)
        if not ((wait is None or wait >= 0) and (retries is None or retries >= 0)):
            raise ValueError(
                "a run on Ray needs wait >= 0 and retries >= 0, but got wait="
                f"{wait}, retries={retries}"
            )
        if run is not None:
            _require_only_run(run, retries)
        cluster = cls(
            scaling=scaling,
            run=RunConfig() if run is None else run,
            wait=wait,
            retries=RETRIES if retries is None else retries,
            kept=run is not None,
        )
        if not cluster.bundle:
            raise ValueError(
                "each worker must hold something, but got resources of 0 alone: give "
                "it a CPU or a share of one"
            )
        return cluster

    @property
    def least(self) -> int:
        """Number of workers without which it does not begin."""
        return _range(self.scaling)[0]

    @property
    def most(self) -> int:
        """Greatest number of workers."""
        return _range(self.scaling)[1]

    @property
    def on_gpu(self) -> bool:
        """Whether workers have GPUs."""
        return bool(self.scaling.use_gpu)

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of one worker."""
        scaling = self.scaling
        named = {"CPU": scaling.num_cpus_per_worker, "GPU": scaling.num_gpus_per_worker}
        own = {name: value for name, value in named.items() if value}
        return own | scaling.additional_resources_per_worker

    def cpus(self, at_most: int = 1) -> int:
        """CPUs of an embedded Ray in which all workers have room.

        Args:
            at_most: so many times, as far as this machine has cores.
        """
        cpus, cores = self.bundle.get("CPU", 0), len(os.sched_getaffinity(0))
        once = max(1, math.ceil(self.least * cpus))
        return max(once, min(math.ceil(at_most * self.most * cpus), cores))

    @property
    def counted_retries(self) -> int | None:
        """Retries that workers count themselves; None where a `FailureConfig` does."""
        return self.retries if self.run.failure_config == FailureConfig() else None

    def run_config(self, folder: str, keep: int) -> RunConfig:
        """The `RunConfig`, with Ray Train's own files in a folder of the run.

        Args:
            folder: address of the folder.
            keep: checkpoints that stay there, unless the user's own says how many.
        """
        own: Any = self.run
        failures = own.failure_config
        if self.counted_retries is not None:
            failures = FailureConfig(max_failures=-1)
        checkpoints = own.checkpoint_config
        if checkpoints is None or checkpoints.num_to_keep is None:
            given = checkpoints or CheckpointConfig()
            checkpoints = replace(given, num_to_keep=keep)
        return replace(
            own,
            name="train",
            storage_path=folder,
            failure_config=failures,
            checkpoint_config=checkpoints,
        )


def place_of(run: Any, name: str | None, storage: Any, default: str) -> tuple[Any, Any]:
    """Name and storage of a run, which its `RunConfig` may say in our place.

    Args:
        run: the `RunConfig`.
        name: what `raymeta.train` was given.
        storage: likewise.
        default: the storage where nobody names one.

    Raises:
        ValueError: both name them, and not the same; an object that is not Ray Train's.
    """
    _require_run(run)
    named = None if run.name.startswith(_UNNAMED) else run.name
    stored = None if run.storage_path == DEFAULT_STORAGE_PATH else run.storage_path
    if named is not None and name not in (None, named):
        raise _both("name", name, "RunConfig(name)", named)
    if stored is not None and str(storage) not in (default, str(stored)):
        raise _both("storage", storage, "RunConfig(storage_path)", stored)
    return name or named, stored or storage


def _range(scaling: ScalingConfig) -> tuple[int, int]:
    number: Any = scaling.num_workers
    return number if isinstance(number, tuple) else (number, number)


def _require_only_scaling(scaling: Any, workers: Any, gpus: int) -> None:
    if not isinstance(scaling, ScalingConfig):
        raise ValueError(
            f"scaling must be a ray.train.ScalingConfig, but got {said(scaling)}"
        )
    if workers is not None:
        raise _both("workers", workers, "ScalingConfig(num_workers)", _number(scaling))
    if gpus:
        raise _both("gpus", gpus, "ScalingConfig(use_gpu)", scaling.use_gpu)
    if _range(scaling)[0] < 1:
        raise ValueError(
            f"a run on Ray needs num_workers >= 1, but got {_number(scaling)}: leave "
            "scaling out for a run in this process"
        )
    if getattr(scaling, "use_tpu", False):
        raise ValueError(
            "workers compute on CPUs or GPUs, but got ScalingConfig(use_tpu=True): "
            "leave it out"
        )
    _require_amounts(scaling.resources_per_worker or {})


def _require_amounts(resources: Any) -> None:
    for name, value in resources.items():
        if not 0 <= value < math.inf:
            raise ValueError(
                f"resources of a worker must be numbers >= 0, but got {name}={value:g}"
            )


def _require_run(run: Any) -> None:
    if not isinstance(run, RunConfig):
        raise ValueError(
            f"run must be a ray.train.RunConfig, but got {said(run)}: ray.tune has a "
            "RunConfig of its own"
        )


def _require_only_run(run: Any, retries: int | None) -> None:
    _require_run(run)
    if retries is not None and run.failure_config != FailureConfig():
        theirs = f"max_failures={run.failure_config.max_failures}"
        raise _both("retries", retries, "RunConfig(failure_config)", theirs)
    if run.storage_filesystem is not None:
        raise ValueError(
            "results go where storage says, but got RunConfig(storage_filesystem): "
            "give an address as s3://bucket/results in its place"
        )


def _number(scaling: ScalingConfig) -> str:
    return f"num_workers={scaling.num_workers}"


def _both(ours: str, value: object, theirs: str, other: object) -> ValueError:
    return ValueError(
        f"{ours} and {theirs} say the same, but got {ours}={value} and {other}: give "
        "one of them"
    )


def is_embedded() -> bool:
    """Whether the next Ray is this process's own, to which no node can come."""
    return not ray.is_initialized() and "RAY_ADDRESS" not in os.environ


def wait_for(
    cluster: Cluster,
    show: Callable[[str], None],
    asked: Callable[[], bool],
    *,
    growing: bool,
) -> None:
    """Until the cluster has room for all workers; an autoscaling one grows.

    Args:
        cluster: what is asked of it.
        show: prints a line for people.
        asked: says whether to end, as by Ctrl-C.
        growing: whether nodes may come.

    Raises:
        ValueError: it has none in time, or never will.
        KeyboardInterrupt: Ctrl-C meanwhile.
    """
    bundle, least = cluster.bundle, cluster.least
    require_possible(bundle, least, "workers", growing=growing)
    wait = cluster.wait
    if wait is None:
        wait = LAUNCH_S if groups() else WAIT_S
    room = _placed(cluster)
    begun, shown = time.monotonic(), -SHOW_EVERY_S
    try:
        while not room.wait(POLL_S):
            waited = time.monotonic() - begun
            if asked():
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


def _placed(cluster: Cluster) -> Any:
    """A placement group as the run's will be."""
    scaling, least = cluster.scaling, cluster.least
    labels: Any = getattr(scaling, "label_selector", None)
    each = [labels] * least if isinstance(labels, dict) else labels and labels[:least]
    return placement_group(
        [cluster.bundle] * least,
        strategy=scaling.placement_strategy,
        **({"bundle_label_selector": each} if each else {}),
    )


def _missing(cluster: Cluster) -> str:
    """What there is too little of."""
    total, free = ray.cluster_resources(), ray.available_resources()
    parts, least = [], cluster.least
    for name, each in cluster.bundle.items():
        needed = each * least
        have, idle = total.get(name, 0.0), free.get(name, 0.0)
        what = (
            count(int(needed), name) if needed == int(needed) else f"{needed:g} {name}"
        )
        if have < needed:
            parts.append(f"{what}, but the cluster has {have:g}")
        elif idle < needed:
            parts.append(f"{what}, but only {idle:g} of {have:g} are free")
    what = " and ".join(parts) or "room that no combination of its nodes has"
    verb = "needs" if least == 1 else "need"
    return f"{count(least, 'worker')} {verb} {what}"
