"""Tune's HyperBand schedulers, counting in units of training."""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import HyperBandForBOHB, HyperBandScheduler

#: The time attribute of a result: units of training after which it comes.
UNITS = "units"


class _InUnits(HyperBandScheduler):
    """A HyperBand of Tune, whose time is counted in units of training.

    Args:
        units: units by training steps; the last are the horizon's.
        factor: η.
    """

    def __init__(self, units: dict[int, int], factor: int) -> None:
        super().__init__(
            time_attr=UNITS, max_t=max(units.values()), reduction_factor=factor
        )
        self._units = units

    def on_trial_result(
        self, tune_controller: Any, trial: Any, result: dict[str, Any]
    ) -> str:
        """Tune's decision."""
        result[UNITS] = self._units[result["inner_steps"]]
        return super().on_trial_result(tune_controller, trial, result)


class HyperBandInUnits(_InUnits):
    """Tune's HyperBand, in the order in which trials may run.

    Tune's own order follows what brackets have completed, so it would depend on how
    many trials are in flight. This one does not: what may run later runs later.
    """

    def __init__(self, units: dict[int, int], factor: int) -> None:
        super().__init__(units, factor)
        self._queue: list[Any] = []

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take the trial."""
        super().on_trial_add(tune_controller, trial)
        self._queue.append(trial)

    def _unpause_trial(self, tune_controller: Any, trial: Any) -> None:
        self._queue.append(trial)

    def on_trial_result(
        self, tune_controller: Any, trial: Any, result: dict[str, Any]
    ) -> str:
        """Tune's decision."""
        self._queue = [other for other in self._queue if other is not trial]
        return super().on_trial_result(tune_controller, trial, result)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The first that waits and may run."""
        waiting = (Trial.PENDING, Trial.PAUSED)
        return next((t for t in self._queue if t.status in waiting), None)


class BOHBInUnits(_InUnits, HyperBandForBOHB):
    """The same for Tune's HyperBand for BOHB, in its own order."""
