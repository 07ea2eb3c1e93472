"""Launcher of an optimization on workers of Ray Train."""

import math
import pickle
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from raymeta._tree import tree_map
from raymeta.distributed.conjugate import default_group
from raymeta.hypergrad import Estimator
from raymeta.outer.auto import Auto
from raymeta.outer.conditions import conditioned
from raymeta.outer.following import follow
from raymeta.outer.optimize import mean_hparams, shown
from raymeta.outer.parallel import Layout, require_parallel
from raymeta.outer.report import Report
from raymeta.outer.result import Result
from raymeta.results import mirror
from raymeta.results.run_folder import RunFolder
from raymeta.runtime import ray_session
from raymeta.runtime.mailbox import Mailbox
from raymeta.runtime.orphans import end_with_parent
from raymeta.runtime.progress import count
from raymeta.runtime.serialization import REMEDY, Payload, pack
from raymeta.search import named
from raymeta.tasks import loading
from raymeta.tasks.base import Task, sample_problem
from raymeta.train.fitting import fitted
from raymeta.train.ray_launcher import (
    ENDED,
    SCRATCH,
    on_cluster,
    reason,
    without_tf32,
)
from raymeta.train.scaling import Cluster
from raymeta.workers import rank
from raymeta.workers.rank import Job, Told

with ray_session.prepared():
    import ray
    from ray import cloudpickle
    from ray.train import FailureConfig
    from ray.train.torch import TorchConfig, TorchTrainer

#: Tensors of CPUs and of GPUs, each by what carries them.
BACKENDS = {False: "gloo", True: "cpu:gloo,cuda:nccl"}


class LostWorkers(ValueError):
    """Workers ended without a result, and without a refusal.

    Args:
        message: for people.
        why: in short.
        heard: how many reports they had told.
    """

    def __init__(self, message: str, why: str, heard: int) -> None:
        super().__init__(message)
        self.why, self.heard = why, heard


def _forget(name: str, value: float) -> None:
    pass


@dataclass(frozen=True)
class Run:
    """An optimization on workers.

    Args:
        task: what is tuned.
        estimator: how to differentiate.
        settings: `hyper_lr`, `budget` and `seed`.
        layout: the workers.
        progress: see `raymeta.optimize`.

    Raises:
        ValueError: the task or the estimator has nothing that can be shared out so.
    """

    task: Task
    estimator: Estimator | Auto
    settings: Mapping[str, Any]
    layout: Layout
    progress: bool | Callable[[Report, float], None] | None

    def __post_init__(self) -> None:
        """Refuse what workers would refuse."""
        require_parallel(self.task, self.estimator, self.layout, self.settings["seed"])

    def anonymous(self) -> Result:
        """The result of a run that nothing is kept of."""
        with tempfile.TemporaryDirectory(prefix="raymeta-") as scratch:
            return self.launched(Path(scratch))

    def by_name(self, name: str, storage: str | Path) -> Result:
        """The result of a run that goes on by its name: see `raymeta.search.named`."""
        with named.folder_of(
            self.task, self.estimator, self.settings, name, storage
        ) as folder:
            return self.continued(folder)

    def continued(self, folder: RunFolder) -> Result:
        """The result, from what a folder has and what remains to compute.

        Raises:
            ValueError: see `raymeta.optimize`.
            KeyboardInterrupt: likewise.
        """
        kept = named.begun(folder, self.task, self.estimator, self.settings, self._say)
        note = partial(named.note, folder, kept.signature)
        heard = 0
        while True:
            try:
                result = self.launched(folder.path, kept, note, heard)
                break
            except LostWorkers as error:
                if error.heard <= heard:  # it would die there again
                    raise
                heard = error.heard
                self._say(f"{error.why}: all start again, and go on")
        named.write(folder, result)
        return result

    def launched(
        self,
        path: Path,
        kept: named.Kept | None = None,
        note: Callable[[str, float], None] = _forget,
        heard_before: int = 0,
    ) -> Result:
        """The result of the workers.

        Args:
            path: a folder that all nodes see.
            kept: what was evaluated, and where more of it is kept; None for nowhere.
            note: keeps a number that is needed beside evaluations, by name.
            heard_before: how many reports were shown already.

        Raises:
            LostWorkers: one of them died.
            ValueError: see `raymeta.optimize`.
            KeyboardInterrupt: likewise.
        """
        looks = self.progress is True
        job = Job(
            self.task,
            self.estimator,
            self.settings,
            self.layout.parallel,
            looks,
            kept,
            torch.get_default_dtype(),
        )
        payload = pack(job, "a task and its estimator", loading.modules())
        workers, gpus, parallel = self.layout
        cluster = Cluster.of(workers, gpus, None, None, None, None)
        self._say(f"starting Ray: {count(workers, 'worker')}, {parallel} shared out")
        live = ExitStack()
        show = live.enter_context(shown(self.progress, self.settings["budget"]))
        heard = _Heard(show, note, heard_before)
        try:
            with on_cluster(cluster, path, self._say) as asked:
                _fit(payload, cluster, path, heard, asked, self._say)
        except ENDED as error:
            if heard.refused is None:
                goes_on = "the same name goes on from what it has evaluated"
                if kept is None:
                    goes_on = "with a name, the same call goes on where it was"
                why = reason(error)
                raise LostWorkers(
                    f"the optimization ended because {why}: {goes_on}, and "
                    "Ray's logs say more",
                    why,
                    heard.count,
                ) from error
        finally:
            live.close()
            mirror.discard(path / SCRATCH)
        if heard.refused is not None:
            raise ValueError(heard.refused)
        if heard.result is None:
            raise KeyboardInterrupt
        for category, text in heard.warned:
            warnings.warn(text, category, stacklevel=4)
        return self._whole(heard.result)

    def _say(self, line: str) -> None:
        if self.progress is True:
            print(line, flush=True)

    def _whole(self, result: Result) -> Result:
        """The result with what is this process' own: options, and the module."""
        seed = self.settings["seed"]
        task = conditioned(self.task, seed)
        problem = sample_problem(task, seed, result.hparams)

        def here(x: Any) -> Any:
            return x.to(problem.device) if isinstance(x, torch.Tensor) else x

        state = tree_map(here, result.state)
        last = task.space.hparams(result.schedule[-1][1], device=problem.device)
        return replace(
            result,
            state=state,
            hparams=mean_hparams(task.space, result.schedule),
            tuned=problem.module and partial(problem.module, state, last),
        )


@dataclass
class _Heard:
    """What workers have told so far.

    Args:
        show: takes reports.
        note: keeps numbers, by name.
        before: how many reports were shown already.
    """

    show: Callable[[Report, float], None]
    note: Callable[[str, float], None]
    before: int = 0
    count: int = 0
    result: Result | None = None
    refused: str | None = None
    warned: list[tuple[type[Warning], str]] = field(default_factory=list)
    stopped: bool = False

    def take(self, told: Told, say: Callable[[str], None]) -> None:
        """Take a message in."""
        for line in told.lines:
            say(line)
        for report, best in told.reports:
            self.count += 1
            if self.count <= self.before:
                continue
            try:
                self.show(report, best)
                follow(report, best)
            except KeyboardInterrupt:  # of who takes the reports
                self.stopped = True
        for name, value in told.numbers:
            self.note(name, value)
        self.warned += told.warned
        self.result = told.result or self.result
        self.refused = self.refused or told.refused


def _fit(
    payload: Payload,
    cluster: Cluster,
    path: Path,
    heard: _Heard,
    asked: Callable[[], bool],
    say: Callable[[str], None],
) -> None:
    mailbox: Any = ray.remote(num_cpus=0)(Mailbox).remote()

    def listen() -> None:
        for message in ray.get(mailbox.collect.remote()):
            heard.take(pickle.loads(message), say)  # noqa: S301  # ranks

    def end() -> None:
        ray.get(mailbox.ask_to_end.remote())
        say("ends after this evaluation; Ctrl-C again ends it at once")

    config = cluster.run_config(f"{mirror.address(path.resolve())}/{SCRATCH}", 1)
    trainer = TorchTrainer(
        _rank,
        train_loop_config={
            "payload": payload,
            "mailbox": mailbox,
            "on_gpu": cluster.on_gpu,
        },
        torch_config=TorchConfig(backend=BACKENDS[cluster.on_gpu]),
        scaling_config=cluster.scaling,
        # Not by Ray: all ranks begin from one log, and only where it has grown.
        run_config=replace(config, failure_config=FailureConfig(max_failures=0)),
    )
    try:
        fitted(trainer, lambda: asked() or heard.stopped, listen, end, math.inf)
    finally:
        with suppress(ray.exceptions.RayError):
            listen()
            mailbox.ask_to_end.remote()


def _rank(arguments: dict[str, Any]) -> None:
    """The training loop of a worker."""
    end_with_parent()
    mailbox = arguments["mailbox"]
    if arguments["on_gpu"]:
        without_tf32()

    def send(told: Told) -> bool:
        return ray.get(mailbox.post.remote(cloudpickle.dumps(told)))

    try:
        job = arguments["payload"].open()
    except ModuleNotFoundError as error:
        rule = "workers must be able to load a task and its estimator"
        send(Told(refused=f"{rule}, but {error}: {REMEDY}"))
        raise
    rank.run(job, default_group(None, "an optimization"), send)
