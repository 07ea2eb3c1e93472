"""Tune's searcher of BOHB; importing it takes its packages."""

from typing import Any

from ray.tune.search.bohb import TuneBOHB


class LearningBOHB(TuneBOHB):
    """Tune's searcher, which also learns from a trial's last result."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._told: dict[str, int] = {}

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Learn from a result at which the scheduler compares."""
        units = result["hyperband_info"].get("budget")
        if units is not None and units != self._told.get(trial_id):
            self._told[trial_id] = units
            super().on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """Learn from the result, then forget the trial."""
        if result is not None:
            self.on_trial_result(trial_id, result)
        super().on_trial_complete(trial_id, result, error)
