"""MLflow: a run of an optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raymeta.integrations.learning import missing

try:
    import mlflow
except ImportError as error:
    raise missing("MLflow", "mlflow") from error


class Run:
    """A run of MLflow's: the active one, or a new one where there is none.

    Args:
        name: of a new run.
        config: its parameters.
    """

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        self._ours = mlflow.active_run() is None
        if self._ours:
            mlflow.start_run(run_name=name)
        mlflow.log_params(dict(config))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers of a step."""
        mlflow.log_metrics(dict(values), step=step)

    def finish(self, values: Mapping[str, Any]) -> None:
        """Log what was found in the end."""
        mlflow.log_metrics(dict(values))

    def close(self, failed: bool) -> None:
        """End the run, unless it was active before."""
        if self._ours:
            mlflow.end_run("FAILED" if failed else "FINISHED")
