"""One Tune experiment for all cells: the ledger behind Tune's interfaces.

Starting an experiment costs seconds, a trial in a running one about ten milliseconds;
so all cells share one, and its searcher and scheduler only pass calls to the ledger.
"""

from collections.abc import Callable
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raymeta.search.ledger import Ledger
from raymeta.search.session import Interrupt


class _NotSaved:
    """Tune pickles whatever it is given; a comparison continues by its journal."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class CellSearcher(_NotSaved, Searcher):
    """Suggests the ledger's next trial.

    It learns nothing itself: results reach the ledger through `CellScheduler`, which
    Tune asks first and about every result.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()  # no metric: Tune then demands none in a result
        self._ledger = ledger

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A trial's configuration; None when none can start now."""
        if run := self._ledger.ask():
            return {"run": run}
        return Searcher.FINISHED if self._ledger.finished else None

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """The ledger knows already."""


class CellScheduler(_NotSaved, FIFOScheduler):
    """Tells the ledger what trials say, and stops those that are over."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self._waiting: list[Trial] = []

    def set_search_properties(
        self, metric: str | None, mode: str | None, **spec: Any
    ) -> bool:
        """The schedulers of the cells bring their own."""
        return metric is None and mode is None

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Remember it."""
        self._waiting.append(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The first that waits; Tune's own FIFO walks through all trials each time."""
        while self._waiting and self._waiting[0].status != Trial.PENDING:
            self._waiting.pop(0)
        return self._waiting[0] if self._waiting else None

    def on_trial_result(
        self, tune_controller: Any, trial: Trial, result: dict[str, Any]
    ) -> str:
        """Pass on the messages."""
        run = trial.config["run"]
        over = self._ledger.tell(run, result["messages"], result["last"])
        return TrialScheduler.STOP if over else TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The worker died: exceptions of the trial itself arrive as messages."""
        reason = str(trial.get_error() or "unknown").strip().splitlines()[0]
        self._ledger.lose(trial.config["run"], reason)


class Pulse(_NotSaved, Callback):
    """Runs between two events of Tune: house-keeping, and the stop at Ctrl-C."""

    def __init__(self, interrupt: Interrupt, keep_house: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._keep_house = keep_house

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Leave Tune's loop as KeyboardInterrupt when that was asked for.

        Tune's own clean-up would wait for trials in the middle of a step, and a
        cluster that is not ours would go on with them.
        """
        self._keep_house()
        if self._interrupt.requested:
            for trial in trials:
                if actor := trial.temporary_state.ray_actor:
                    ray.kill(actor)
            raise KeyboardInterrupt
