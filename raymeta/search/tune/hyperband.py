"""Tune's HyperBand schedulers, counting in units of training."""

from typing import Any

from ray.tune.schedulers import HyperBandForBOHB, HyperBandScheduler

#: The time attribute of a result: units of training after which it comes.
UNITS = "units"


class HyperBandInUnits(HyperBandScheduler):
    """Tune's HyperBand, whose time is counted in units of training.

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


class BOHBInUnits(HyperBandInUnits, HyperBandForBOHB):
    """The same for Tune's HyperBand for BOHB."""
