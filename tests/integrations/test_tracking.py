"""Optimizations in MLflow and W&B."""

import json
import sys

import pytest

from raymeta import optimize
from tests.support.ridge import Well

TASK = Well(horizon=4, budget=60.0)
pytestmark = pytest.mark.filterwarnings("ignore")


def tuned(**options):
    return optimize(TASK, "reverse", progress=False, **options)


def test_mlflow_has_reports_settings_and_the_result(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    result = tuned(log="mlflow", seed=3)
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.status == "FINISHED"
    assert run.data.params["estimator"] == "Reverse"
    assert (run.data.params["seed"], run.data.params["budget"]) == ("3", "60.0")
    assert run.data.metrics["final/outer_loss"] == result.outer_loss
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "outer_loss")
    assert [row.value for row in history] == [r.outer_loss for r in result.reports]
    assert [row.step for row in history] == [r.outer_step for r in result.reports]
    name = next(iter(result.reports[-1].hparams))
    plain = f"hp/{name}".replace("[", "/").replace("]", "")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, plain)
    assert [row.value for row in history] == [r.hparams[name] for r in result.reports]

    with mlflow.start_run() as mine:  # an active one is gone on with
        tuned(log="mlflow", name="kept", storage=tmp_path)
        assert mlflow.active_run().info.run_id == mine.info.run_id
    with pytest.raises(ValueError, match="budget"):
        optimize(TASK, "reverse", budget=-1.0, log="mlflow")
    assert mlflow.active_run() is None


def test_wandb_has_reports_settings_and_the_result(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    seen, run = [], wandb.init(project="mine")
    log = run.log
    monkeypatch.setattr(run, "log", lambda row: (seen.append(row), log(row)))
    result = tuned(log="wandb")
    assert run.config["estimator"] == "Reverse"
    assert [row["outer_loss"] for row in seen] == [r.outer_loss for r in result.reports]
    assert [row["outer_step"] for row in seen] == [r.outer_step for r in result.reports]
    assert run.summary["final/outer_loss"] == result.outer_loss
    assert wandb.run is run
    run.finish()
    tuned(log="wandb")
    assert wandb.run is None


class Full:
    """A tracker whose disk is full."""

    def __init__(self, name, config):
        self.closed = 0

    def log(self, values, step):
        raise OSError("No space left on device")

    def finish(self, values):
        raise AssertionError

    def close(self, failed):
        raise AssertionError


def test_a_tracker_that_breaks_is_a_warning(monkeypatch):
    module = type(json)("raymeta.integrations.mlflow")
    module.Run = Full
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.warns(UserWarning, match="mlflow logs no more .OSError.*goes on"):
        found = tuned(log="mlflow")
    assert found.outer_loss == tuned().outer_loss


def test_what_is_not_there_gets_one_line(monkeypatch):
    with pytest.raises(ValueError, match="unknown log 'mlflw': did you mean 'mlflow'"):
        tuned(log="mlflw")
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "raymeta.integrations.wandb", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'raymeta\[wandb\]'"):
        tuned(log="wandb")
