"""One Tune experiment for all studies: the coordinator behind Tune's interfaces.

Starting an experiment costs seconds, a trial in a running one about ten milliseconds;
so all studies share one, and its searcher and scheduler only pass calls to the
coordinator.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayTaskError
from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raymeta.results.schema import hparam_columns
from raymeta.runtime.interrupt import Interrupt
from raymeta.search.study.coordinator import Coordinator

#: Seconds after Ctrl-C for workers that are starting, so that they can be killed: Tune
#: waits ten for one that it has to stop itself. What no node has room for never starts.
STARTING_S = 5.0


#: Seconds in which a worker starts that a node has room for, on a busy machine, too.
UP_S = 120.0


class _NotSaved:
    """Tune pickles whatever it is given; a comparison continues by its journal."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class BridgeSearcher(_NotSaved, Searcher):
    """Suggests the coordinator's next trial.

    It learns nothing itself: results reach the coordinator through `BridgeScheduler`,
    which Tune asks first and about every result.
    """

    def __init__(self, coordinator: Coordinator, interrupt: Interrupt) -> None:
        super().__init__()  # no metric: Tune then demands none in a result
        self._coordinator, self._interrupt = coordinator, interrupt

    def suggest(self, trial_id: str) -> Any:
        """A trial's configuration; None when none can start now; or `FINISHED`."""
        if self._interrupt.requested:
            return Searcher.FINISHED
        if run := self._coordinator.request_trial():
            # Tune's callbacks and data frames show what stands beside the run.
            plain = {**run.study._asdict(), "trial": run.number}
            return {"run": run, **plain, **hparam_columns(run.hparams or {})}
        return Searcher.FINISHED if self._coordinator.finished else None

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """The coordinator knows already."""


class BridgeScheduler(_NotSaved, FIFOScheduler):
    """Tells the coordinator what trials say, and stops those that are over.

    Args:
        coordinator: what is told.
        interrupt: whether the end was asked for.
        stop: the user's, which ends trials early. Tune itself would not show their last
            result to a scheduler.
        keep: whether Tune's experiment is read later; else it keeps little of a trial.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        interrupt: Interrupt,
        stop: Stopper,
        keep: bool = True,
    ) -> None:
        super().__init__()
        self._coordinator, self._interrupt, self._stop = coordinator, interrupt, stop
        self._keep = keep
        self._over: list[Trial] = []
        self._waiting: list[tuple[float, Trial]] = []  # since when

    def set_search_properties(
        self, metric: str | None, mode: str | None, **spec: Any
    ) -> bool:
        """The schedulers of the studies bring their own."""
        return metric is None and mode is None

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Remember it."""
        self._waiting.append((time.monotonic(), trial))

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Who gets a worker that has become free: the last of those that wait.

        For each of them a worker is being started, and Tune gives that one up: by the
        first, short trials would keep most slots from ever having a worker. One that
        has waited for long comes first: no node has room for its worker.
        """
        if not self._keep:
            self._forget(tune_controller)
        self._waiting = [w for w in self._waiting if w[1].status == Trial.PENDING]
        if not self._waiting:
            return None
        (since, first), (_, last) = self._waiting[0], self._waiting[-1]
        return first if time.monotonic() > since + UP_S else last

    def on_trial_result(
        self, tune_controller: Any, trial: Trial, result: dict[str, Any]
    ) -> str:
        """Pass on the reports."""
        run, reports = trial.config["run"], list(result["reports"])
        result["reports"].clear()  # Tune keeps the last result of every trial
        last = result["last"] or self._stop(trial.trial_id, result)
        over = self._coordinator.record(run, reports, last)
        if over:
            self._over.append(trial)
        return TrialScheduler.STOP if over else TrialScheduler.CONTINUE

    def _forget(self, tune_controller: Any) -> None:
        """What Tune would write of trials, and the statistics of those that are over.

        The first is nearly half of what a trial costs it, and both most of its memory.
        """
        tune_controller._trials_to_cache.clear()
        for trial in self._over:
            trial.run_metadata.metric_analysis.clear()
            trial.run_metadata.metric_n_steps.clear()
        self._over.clear()

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The worker died: exceptions of the trial itself arrive as reports."""
        if not self._interrupt.requested:  # it was killed then
            self._coordinator.on_worker_lost(trial.config["run"], _reason(trial))


class Pulse(_NotSaved, Callback, Stopper):
    """Runs between two events of Tune: what is due now and then, and the end at Ctrl-C.

    Tune itself would wait for trials in the middle of a step. So their workers are
    killed, those that are starting too; when the last one is gone Tune stops what has
    not begun, and gives back all that it holds of the cluster.

    Attributes:
        stopped: whether the user's stopper has asked for the end of it all.
    """

    def __init__(
        self,
        interrupt: Interrupt,
        on_tick: Callable[[], None],
        ray_goes_on: bool,
        stop: Stopper,
    ) -> None:
        self._interrupt, self._on_tick = interrupt, on_tick
        self._ray_goes_on, self._stop = ray_goes_on, stop
        self.stopped = False
        self._ended, self._deadline = False, math.inf

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Kill the workers when the end was asked for."""
        self._on_tick()
        if self._stop.stop_all():
            self.stopped = self._interrupt.requested = True
        if not self._interrupt.requested:
            return
        if not self._ray_goes_on:  # its end is that of all workers
            raise KeyboardInterrupt
        now = time.monotonic()
        self._deadline = min(self._deadline, now + STARTING_S)
        left = [t.temporary_state.ray_actor for t in trials if not t.is_finished()]
        for actor in filter(None, left):
            ray.kill(actor)
        self._ended = not left or (now > self._deadline and not any(left))

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial ends: the scheduler says which."""
        return False

    def stop_all(self) -> bool:
        """Whether the experiment ends: no worker is left."""
        return self._ended


def _reason(trial: Trial) -> str:
    """Why a worker failed, in one line: an exception, or what Ray says of a death."""
    error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    if isinstance(error, RayTaskError):
        cause = error.cause
        return " ".join(f"{type(cause).__name__}: {cause}".split())
    return str(error).splitlines()[0]
