"""People's own Tuners on real Ray: searchers, schedulers, stoppers, restoring."""

import os
import subprocess
import sys
import time

import own_asha
import pytest
from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining
from search_toys import Bowl

import raymeta

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

TASK = Bowl(horizon=20)
PLAIN = ["outer_loss", "best_outer_loss", "inner_steps", "gradient_evals", "flops"]
PLAIN += ["wall_s", "training_iteration", "hp/lr", "hp/kind"]


def fitted(folder, space, scheduler, samples, stop=None):
    """What a Tuner finds, which is not raymeta's."""
    return tune.Tuner(
        raymeta.tune.trainable(TASK, seed=1),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="outer_loss",
            mode="min",
            num_samples=samples,
            scheduler=scheduler,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="own", storage_path=str(folder), verbose=0, stop=stop
        ),
    ).fit()


def test_asha_and_a_stopper_end_runs_of_a_task(tmp_path):
    frame = fitted(
        tmp_path,
        raymeta.tune.space(TASK),
        ASHAScheduler(time_attr="inner_steps", grace_period=4, max_t=20),
        samples=8,
        stop=lambda trial, result: result["inner_steps"] >= 18,
    ).get_dataframe()

    assert set(PLAIN) <= set(frame.columns)
    assert {4, 18} <= set(frame.inner_steps) <= {4, 16, 18}
    assert (frame["hp/lr"] == frame["config/lr"]).all()
    for row in frame.to_dict("records"):
        true = TASK.outer(row["hp/lr"], 1, row["inner_steps"])
        assert row["outer_loss"] == pytest.approx(true, rel=1e-5)


def test_population_based_training_copies_training_states(tmp_path):
    """Every loss follows from one that was reported two steps before."""
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=5,
        hyperparam_mutations={"lr": tune.uniform(0.05, 0.5)},
        quantile_fraction=0.5,
        synch=True,
    )
    space = {"lr": tune.grid_search([0.02, 0.1])}

    grid = fitted(tmp_path, space, scheduler, samples=1)

    assert not grid.errors
    curves = [found.metrics_dataframe for found in grid]
    assert sorted(curve["hp/lr"].nunique() for curve in curves)[-1] > 1
    assert {len(curve) for curve in curves} == {10}
    for curve in curves:
        for row in range(1, 10):
            factor = (1 - curve["hp/lr"][row]) ** 4
            from_one = [other.outer_loss[row - 1] * factor for other in curves]
            assert any(
                curve.outer_loss[row] == pytest.approx(loss, rel=1e-5)
                for loss in from_one
            )


def test_a_killed_tuner_is_restored(tmp_path, cluster):
    process = subprocess.Popen(
        [sys.executable, own_asha.__file__, str(tmp_path)],
        env=os.environ
        | {"RAY_ADDRESS": cluster, "TUNE_GLOBAL_CHECKPOINT_S": "0.5"}
        | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("killed/*/checkpoint_000003")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    seen = time.time()
    while time.time() < seen + 30:  # until Tune has noted it
        noted = tmp_path.glob("killed/experiment_state-*.json")
        if max((file.stat().st_mtime for file in noted), default=0) > seen + 0.5:
            break
        time.sleep(0.1)
    process.kill()
    process.communicate()

    grid = tune.Tuner.restore(
        str(tmp_path / "killed"), own_asha.SLOW, resume_unfinished=True
    ).fit()

    frame = grid.get_dataframe()
    assert frame.training_iteration.tolist() == [10]
    assert frame.iterations_since_restore.min() < 10  # not all was trained again
    assert frame.outer_loss.tolist() == pytest.approx([TASK.outer(0.1, 1)], rel=1e-5)
