"""Weights & Biases: a run of an optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raymeta.integrations.learning import missing

try:
    import wandb
except ImportError as error:
    raise missing("W&B", "wandb") from error

PROJECT = "raymeta"


class Run:
    """A run of W&B's: the active one, or a new one in the project `raymeta`.

    Args:
        name: of a new run.
        config: its config.
    """

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        self._ours = wandb.run is None
        self._run = wandb.run or wandb.init(project=PROJECT, name=name)
        self._run.config.update(dict(config))
        self._run.define_metric("outer_step")
        self._run.define_metric("*", step_metric="outer_step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers of a step."""
        self._run.log({**values, "outer_step": step})

    def finish(self, values: Mapping[str, Any]) -> None:
        """Keep what was found in the end as the run's summary."""
        self._run.summary.update(dict(values))

    def close(self, failed: bool) -> None:
        """End the run, unless it was active before."""
        if self._ours:
            self._run.finish(exit_code=int(failed))
