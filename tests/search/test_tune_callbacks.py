"""What Tune's callbacks, stoppers and data frames see of a comparison, on Ray."""

import pandas as pd
import pytest
from ray import tune
from search_toys import Bowl

from raymeta.search import compare

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

#: What a result and a trial's config have for whoever looks.
RESULT = {"outer_loss", "best_outer_loss", "inner_steps", "gradient_evals", "flops"}
RESULT |= {"wall_s", "training_iteration", "hp/lr", "hp/kind"}
CONFIG = {"task", "method", "seed", "trial", "hp/lr", "hp/kind"}


KEYS = ["method", "trial"]


class Spy(tune.Callback):
    def __init__(self):
        self.seen = []

    def on_trial_result(self, iteration, trials, trial, result, **info):
        self.seen.append((dict(trial.config), dict(result)))


class Broken(tune.Callback):
    def on_trial_start(self, iteration, trials, trial, **info):
        raise OSError("No space left on device")


class Enough(tune.Stopper):
    """Ends all of it after some results."""

    def __init__(self, results):
        self.left = results

    def __call__(self, trial_id, result):
        self.left -= 1
        return False

    def stop_all(self):
        return self.left <= 0


def searched(frame):
    """Losses and λ of trials that train, by trial."""
    rows = frame[frame.status == "complete"].sort_values(["method", "trial"])
    return rows[["method", "trial", "outer_loss", "hp/lr"]].reset_index(drop=True)


def test_callbacks_and_a_kept_experiment_agree_with_the_frame(tmp_path):
    spy, settings = Spy(), {"budget": 40, "seeds": 1, "storage": tmp_path}
    settings |= {"name": "x", "progress": False, "keep_tune": True}
    with pytest.warns(UserWarning, match="callback Broken raises OSError: No space"):
        frame = compare(
            Bowl(),
            ["random", "long_term"],
            callbacks=[Broken(), spy],
            resources_per_trial={"CPU": 0.5, "memory": 1e6},
            **settings,
        )

    assert all(set(config) >= CONFIG for config, _ in spy.seen if config["trial"])
    assert all(set(result) >= RESULT for _, result in spy.seen)
    kept = tune.ResultGrid(tune.ExperimentAnalysis(str(tmp_path / "x" / "tune" / "1")))
    found = kept.get_dataframe()
    found = found.rename(columns={f"config/{name}": name for name in KEYS})
    found = found[[*KEYS, "outer_loss", "hp/lr", "gradient_evals", "test_loss"]]
    found = found.sort_values(KEYS, ignore_index=True)
    ends = frame.groupby(KEYS, as_index=False).last()
    for column in [*KEYS, "outer_loss", "hp/lr"]:
        assert found[column].tolist() == ends[column].tolist()
    spent = found[found.test_loss.isna()].groupby("method").gradient_evals.sum()
    assert (
        spent.to_dict()
        == (
            frame[frame.method != "long_term"].groupby("method").gradient_evals.max()
        ).to_dict()
    )


def test_a_stopper_ends_it_all_and_the_same_call_goes_on(tmp_path):
    lines, settings = [], {"budget": 60, "seeds": 1, "storage": tmp_path, "name": "x"}
    part = compare(Bowl(), "random", stop=Enough(3), progress=lines.append, **settings)
    assert 3 <= len(part) < 6
    assert lines[-1].startswith("stopped by stop=")
    whole = compare(Bowl(), "random", progress=False, **settings)
    both = searched(whole).merge(searched(part)[KEYS])  # whichever came first
    pd.testing.assert_frame_equal(both, searched(part))
    assert set(whole.status) == {"complete", "final"}


def test_resources_that_no_node_has_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"1 CPU and 1 moon on one node, but no node"):
        compare(
            Bowl(),
            "random",
            resources_per_trial={"moon": 1},
            storage=tmp_path,
            progress=False,
        )


def test_mlflow_sees_losses_and_hyperparameters(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    logger = MLflowLoggerCallback(
        tracking_uri=(tmp_path / "mlruns").as_uri(), experiment_name="own"
    )
    frame = compare(
        Bowl(),
        "random",
        budget=30,
        seeds=1,
        storage=tmp_path,
        name="x",
        progress=False,
        callbacks=[logger],
        keep_tune=True,
    )
    runs = mlflow.search_runs(experiment_names=["own"])
    trained = runs[runs["params.trial"].astype(int) < 3].sort_values("params.trial")
    assert trained["metrics.outer_loss"].tolist() == searched(frame).outer_loss.tolist()
    assert trained["params.hp/lr"].astype(float).tolist() == frame["hp/lr"][:3].tolist()
    # Tune's own files agree with both.
    kept = tune.ResultGrid(tune.ExperimentAnalysis(str(tmp_path / "x" / "tune" / "1")))
    found = kept.get_dataframe().sort_values("config/trial")[:3]
    assert found["outer_loss"].tolist() == trained["metrics.outer_loss"].tolist()
