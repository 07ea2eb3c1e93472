"""One Tune experiment for all studies: the coordinator behind Tune's interfaces.

Starting an experiment costs seconds, a trial in a running one about ten milliseconds;
so all studies share one, and its searcher and scheduler only pass calls to the
coordinator.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raymeta.runtime.interrupt import Interrupt
from raymeta.search.study.coordinator import Coordinator


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

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__()  # no metric: Tune then demands none in a result
        self._coordinator = coordinator

    def suggest(self, trial_id: str) -> Any:
        """A trial's configuration; None when none can start now; or `FINISHED`."""
        if run := self._coordinator.request_trial():
            return {"run": run}
        return Searcher.FINISHED if self._coordinator.finished else None

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """The coordinator knows already."""


class BridgeScheduler(_NotSaved, FIFOScheduler):
    """Tells the coordinator what trials say, and stops those that are over."""

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__()
        self._coordinator = coordinator
        self._waiting: list[Trial] = []
        self._controller: Any = None

    def set_search_properties(
        self, metric: str | None, mode: str | None, **spec: Any
    ) -> bool:
        """The schedulers of the studies bring their own."""
        return metric is None and mode is None

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Remember it."""
        self._controller = tune_controller
        self._waiting.append(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The first that waits; Tune's own FIFO walks through all trials each time."""
        while self._waiting and self._waiting[0].status != Trial.PENDING:
            self._waiting.pop(0)
        return self._waiting[0] if self._waiting else None

    def on_trial_result(
        self, tune_controller: Any, trial: Trial, result: dict[str, Any]
    ) -> str:
        """Pass on the reports."""
        run = trial.config["run"]
        over = self._coordinator.record(run, result["reports"], result["last"])
        return TrialScheduler.STOP if over else TrialScheduler.CONTINUE

    def kill_trials(self) -> None:
        """End all workers at once and give back what they hold of the cluster."""
        if self._controller is not None:
            # Tune has no public way that does not wait for trials in a long step.
            self._controller._tune_controller._actor_manager.cleanup()

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The worker died: exceptions of the trial itself arrive as reports."""
        self._coordinator.on_worker_lost(trial.config["run"], _reason(trial))


class Pulse(_NotSaved, Callback):
    """Runs between two events of Tune: house-keeping, and the stop at Ctrl-C."""

    def __init__(self, interrupt: Interrupt, on_tick: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._on_tick = on_tick

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Leave Tune's loop as KeyboardInterrupt when that was asked for.

        Tune's own clean-up would wait for trials in the middle of a step.
        """
        self._on_tick()
        if self._interrupt.requested:
            raise KeyboardInterrupt


def _reason(trial: Trial) -> str:
    """Why a worker failed, in one line of what Tune wrote about it."""
    text = re.sub(r"\x1b\[\d*m", "", Path(trial.error_file).read_text())
    _, *lines = text.strip().splitlines()
    # An exception comes as a traceback, which ends with it; a death is told first.
    return lines[-1] if lines[0].startswith("ray::") else lines[0]
