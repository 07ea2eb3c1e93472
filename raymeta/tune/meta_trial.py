"""Meta-training as a trial: a run on Ray Train's workers that any Tuner can stop.

The trial itself takes no CPU. Its workers are placed all or none, and as many trials
run at once as the cluster has room for: drivers and workers cannot wait for each other.
"""

import math
import queue
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from ray.train import ScalingConfig
from ray.tune import PlacementGroupFactory, Trainable
from ray.tune.result import DONE

from raymeta.errors import said
from raymeta.modules.user_functions import require_function
from raymeta.results import mirror
from raymeta.results.run_folder import run_address
from raymeta.runtime.cluster import require_possible, room
from raymeta.runtime.serialization import Payload, pack
from raymeta.tasks import loading
from raymeta.train.checkpoints import last_step, step_file
from raymeta.train.config import TrainConfig
from raymeta.train.events import Event
from raymeta.train.run import STORAGE, TrainResult, trained
from raymeta.train.scaling import LAUNCH_S, Cluster, scaling_of

#: A resource of each cluster's first node, of which Ray gives it 1, and what all
#: drivers together take of it. Ray counts it in steps of 1e-4.
HEAD, SHARE, GRAIN = "node:__internal_head__", 0.9, 1e-4
#: Seconds that a run gets to end in order, and a checkpoint to be written.
END_S, WRITE_S = 90.0, 60.0


def meta_trainable(
    make_config: Callable[[dict[str, Any]], TrainConfig],
    *,
    scaling: ScalingConfig | None = None,
    storage: str | Path = STORAGE,
) -> type["MetaTrial"]:
    """A trainable for `tune.Tuner`: a meta-training on Ray Train's workers.

    Each validation is a result: `outer_loss` on validation tasks, `best_outer_loss`,
    `outer_step`, `train_loss`, `tasks_per_s`; the last one has `test_loss`, too. Trials
    take no CPU themselves, and as many run at once as there is room for their workers.
    A trial that is stopped ends its workers in order. Checkpoints hold θ and the outer
    optimizer: a trial that takes over another's goes on from there at its own settings.

    Args:
        make_config: a trial's configuration -> its run, of one seed.
        scaling: Ray Train's `ScalingConfig` of each trial; one worker by default.
        storage: the folder of the trials' run folders, by their id, which all nodes of
            a cluster must see; or its address on an object store.

    Raises:
        ValueError: what cannot be sent to trials; see `raymeta.train`; in a trial, what
            is no `TrainConfig` of one seed.
    """
    require_function("make_config", make_config, ("config",))
    cluster = Cluster.of(
        None, 0, scaling_of(1) if scaling is None else scaling, None, LAUNCH_S, None
    )
    place = storage if mirror.is_remote(storage) else Path(storage).resolve()
    parts = {
        "payload": pack((make_config, cluster), "make_config", loading.modules()),
        "cluster": cluster,
        "storage": str(place),
        "__doc__": "Meta-training on Ray Train's workers.",
    }
    return type("meta-training", (MetaTrial,), parts)


class MetaTrial(Trainable):
    """A trial that is a meta-training; `meta_trainable` makes the class of a Tuner.

    Attributes:
        payload: what makes the run of a configuration, as it is sent to trials.
        cluster: what each asks of the cluster.
        storage: the folder of the run folders.
    """

    payload: ClassVar[Payload]
    cluster: ClassVar[Cluster]
    storage: ClassVar[str]

    @classmethod
    def default_resource_request(
        cls, config: dict[str, Any]
    ) -> PlacementGroupFactory | None:
        """So little that as many trials run at once as their workers have room.

        Raises:
            ValueError: the cluster never has room for one.
        """
        bundle, least = cls.cluster.bundle, cls.cluster.least
        require_possible(bundle, least, "workers", growing=False)
        at_once = max(1, room(bundle) // cls.cluster.most)
        share = max(1, math.floor(SHARE / at_once / GRAIN)) * GRAIN
        return PlacementGroupFactory([{"CPU": 0, HEAD: share}])

    def setup(self, config: dict[str, Any]) -> None:
        """Take a configuration; the training begins with the first result."""
        make, _ = self.payload.open()
        run = make(config)
        if not isinstance(run, TrainConfig):
            raise ValueError(
                f"make_config must return a TrainConfig, but returned {said(run)}"
            )
        if len(run.seeds) != 1:
            raise ValueError(
                "a trial trains one seed, but make_config gave seeds="
                f"{list(run.seeds)}: make the seed a part of the configuration"
            )
        self._config, self._name = run, self.trial_id
        self._run: _Run | None = None
        self._start: Path | None = None
        self._metrics: dict[str, Any] = {"best_outer_loss": math.inf}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin again in this process, which has torch already."""
        self.cleanup()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next validation, or to the end; raises what ends the run."""
        if self._run is None:
            run, cluster, name = self._config, self.cluster, self._name
            self._run = _Run(run, cluster, name, self.storage, self._start)
        for event in iter(self._run.events.get, None):
            if event["event"] == "step":
                self._metrics["train_loss"] = event["loss"]
                self._metrics["tasks_per_s"] = event["tasks_per_s"]
            if event["event"] == "checkpoint" and not math.isnan(event["val_loss"]):
                return self._validated(event["step"], event["val_loss"]) | {DONE: False}
        frame = self._run.result().frame
        val, test = (frame[frame["split"] == split] for split in ("val", "test"))
        step, loss = val[["outer_step", "outer_loss"]].iloc[-1]
        test_loss = float(test["outer_loss"].iloc[-1])
        return self._validated(int(step), float(loss)) | {
            "test_loss": test_loss,
            DONE: True,
        }

    def _validated(self, step: int, loss: float) -> dict[str, Any]:
        best = min(self._metrics["best_outer_loss"], loss)
        found = {"outer_step": step, "outer_loss": loss, "best_outer_loss": best}
        self._metrics |= found
        return dict(self._metrics)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """The last checkpoint of the run.

        Raises:
            ValueError: none is written in time.
        """
        deadline = time.monotonic() + WRITE_S
        seed = f"seed-{self._config.seeds[0]}"
        while time.monotonic() < deadline:
            with mirror.local(run_address(self.storage, self._name)) as folder:
                step = last_step(folder / seed)
                if step is not None:
                    try:
                        shutil.copy(step_file(folder / seed, step), checkpoint_dir)
                        return
                    except FileNotFoundError:  # a newer one has replaced it
                        continue
            time.sleep(0.1)
        raise ValueError(
            f"a trial has a checkpoint once it has a result, but {self._name} has none "
            f"after {WRITE_S:g} s: see whether all nodes see {self.storage}"
        )

    def load_checkpoint(self, checkpoint: dict | str | None) -> None:
        """Go on from a trial's last checkpoint, in a run folder of its own."""
        assert isinstance(checkpoint, str)
        self.cleanup()
        # Tune deletes its copy when this returns.
        self._start = Path(self.logdir) / "start"
        shutil.rmtree(self._start, ignore_errors=True)
        self._start.mkdir(parents=True)
        for file in Path(checkpoint).glob("*.pt"):
            shutil.copy(file, self._start)
        self._name = f"{self.trial_id}-{secrets.token_hex(2)}"

    def cleanup(self) -> None:
        """End the run in order, so that its workers' resources are free."""
        if self._run is not None:
            self._run.end()
            self._run = None


class _Run:
    """A run at work on a thread.

    Attributes:
        events: what rank 0 reports; None at the end.
    """

    def __init__(
        self,
        config: TrainConfig,
        cluster: Cluster,
        name: str,
        storage: str,
        start: Path | None,
    ) -> None:
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._stop, self._outcome = threading.Event(), list[Any]()

        def run() -> None:
            try:
                found: Any = trained(
                    config,
                    cluster,
                    name,
                    storage,
                    False,
                    start=start,
                    listen=self.events.put,
                    stop=self._stop.is_set,
                )
            except BaseException as error:
                found = error
            self._outcome.append(found)
            self.events.put(None)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def result(self) -> TrainResult:
        """What it found; raises what ended it."""
        self._thread.join()
        (found,) = self._outcome
        if isinstance(found, BaseException):
            raise found
        return found

    def end(self) -> None:
        """Ask it to end, and wait for it."""
        self._stop.set()
        self._thread.join(END_S)
