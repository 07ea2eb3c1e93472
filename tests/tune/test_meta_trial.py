"""Trials that are meta-trainings on Ray Train's workers, under people's own Tuner."""

import time

import pandas as pd
import pytest
import train_toys
from ray import cloudpickle, tune
from ray.train import ScalingConfig
from ray.tune.schedulers import ASHAScheduler

import raymeta
from raymeta.runtime.ray_session import ray

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

cloudpickle.register_pickle_by_value(train_toys)
#: One worker with all CPUs: a trial that kept them would keep the next one waiting.
WHOLE = ScalingConfig(num_workers=1, resources_per_worker={"CPU": 2})


def make_config(config):
    return train_toys.config(
        outer_lr=config["outer_lr"],
        outer_steps=40,
        checkpoint_every=10,
        family=train_toys.Points(step_s=0.05),
    )


def test_asha_ends_trainings_and_the_next_one_gets_their_cpus(tmp_path):
    grid = tune.Tuner(
        raymeta.tune.meta_trainable(make_config, scaling=WHOLE, storage=tmp_path),
        param_space={"outer_lr": tune.grid_search([0.3, 1e-5, 0.2])},
        tune_config=tune.TuneConfig(
            metric="outer_loss",
            mode="min",
            scheduler=ASHAScheduler(
                time_attr="outer_step", grace_period=10, max_t=40, reduction_factor=2
            ),
        ),
        run_config=tune.RunConfig(
            name="tuned", storage_path=str(tmp_path / "ray"), verbose=0
        ),
    ).fit()

    assert not grid.errors
    frame = grid.get_dataframe().set_index("config/outer_lr")
    assert frame.loc[[0.3, 1e-5], "outer_step"].tolist() == [40, 10]
    for row in frame.itertuples():
        # What Tune was told is what the run folder says.
        own = pd.read_parquet(tmp_path / row.trial_id / "frame.parquet")
        val = own.query("split == 'val'").set_index("outer_step")["outer_loss"]
        assert row.outer_loss == val[row.outer_step]
        assert row.best_outer_loss == val.loc[: row.outer_step].min()
    whole = grid[0].metrics_dataframe
    # At its max_t ASHA ends a trial, before the look at test tasks.
    assert whole["outer_step"].tolist() == [0, 10, 20, 30, 40]
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources()["CPU"] == 2


@pytest.mark.parametrize(
    ("make", "scaling", "message"),
    [
        (None, WHOLE, r"make_config must be a function of \(config\), but got a None"),
        (make_config, 3, "scaling must be a ray.train.ScalingConfig, but got 3"),
    ],
)
def test_what_cannot_be_a_trial_is_refused(make, scaling, message):
    with pytest.raises(ValueError, match=message):
        raymeta.tune.meta_trainable(make, scaling=scaling)


def test_trials_that_never_have_room_are_refused():
    large = ScalingConfig(num_workers=3)
    kind = raymeta.tune.meta_trainable(make_config, scaling=large)
    with pytest.raises(ValueError, match=r"3 workers need 1 CPU each, but .* for 2 of"):
        kind.default_resource_request({})


def test_trials_at_once_are_as_many_as_their_workers_have_room():
    for workers, at_once in ((1, 2), (2, 1)):
        kind = raymeta.tune.meta_trainable(
            make_config, scaling=ScalingConfig(num_workers=workers)
        )
        (bundle,) = kind.default_resource_request({}).bundles
        assert list(bundle) == ["node:__internal_head__"]  # and no CPU
        (share,) = bundle.values()
        assert int(1 / share) == at_once
