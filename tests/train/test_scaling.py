"""What is asked of a cluster, before any Ray starts."""

import os

import pytest
import ray.train
import ray.tune
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from train_toys import config

from raymeta.train import train
from raymeta.train.scaling import Cluster, scaling_of

TWO = ScalingConfig(num_workers=2)


def test_flags_give_a_scaling_config():
    scaling = scaling_of((1, 4), 4, 2.0, {"special": 0.5})
    cluster = Cluster(scaling=scaling)
    assert (cluster.least, cluster.most, cluster.on_gpu) == (1, 4, True)
    assert cluster.bundle == {"CPU": 2.0, "GPU": 1.0, "special": 0.5}
    three = Cluster(scaling=scaling_of(3, cpus_per_worker=1.5))
    assert three.cpus() == 5
    cores = len(os.sched_getaffinity(0))
    assert three.cpus(4) == max(5, min(18, cores))  # of an embedded Ray, for 4 seeds


def test_what_the_run_config_says_passes_through():
    failures = FailureConfig(max_failures=7)
    run = RunConfig(
        failure_config=failures, worker_runtime_env={"env_vars": {"A": "1"}}
    )
    own = Cluster.of(None, 0, TWO, run, None, None).run_config("there", keep=3)
    assert own.failure_config == failures
    assert own.worker_runtime_env == {"env_vars": {"A": "1"}}
    assert (own.storage_path, own.checkpoint_config.num_to_keep) == ("there", 3)

    run = RunConfig(checkpoint_config=CheckpointConfig(num_to_keep=9))
    own = Cluster.of(2, 0, None, run, None, 5).run_config("there", keep=3)
    assert own.failure_config.max_failures == -1  # they are counted by workers
    assert own.checkpoint_config.num_to_keep == 9


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            {"scaling": TWO, "workers": 2},
            r"workers and .* say the same, but got worker",
        ),
        ({"scaling": TWO, "gpus": 2}, r"gpus and .* say the same, but got gpus=2 and"),
        ({"scaling": {"num_workers": 2}}, "must be a ray.train.ScalingConfig, but got"),
        ({"scaling": ScalingConfig(num_workers=0)}, "num_workers=0: leave scaling out"),
        ({"run": RunConfig()}, "without workers or scaling the run is in this process"),
        ({"workers": 1, "run": ray.tune.RunConfig()}, "must be a ray.train.RunConfig"),
        (
            {"workers": 1, "name": "a", "run": RunConfig(name="b")},
            r"name and RunConfig\(name\) say the same, but got name=a and b",
        ),
        (
            {"workers": 1, "storage": "a", "run": RunConfig(storage_path="/b")},
            r"storage and .* say the same, but got storage=a and /b: give one",
        ),
        (
            {
                "workers": 1,
                "retries": 1,
                "run": RunConfig(failure_config=FailureConfig(max_failures=2)),
            },
            "say the same, but got retries=1 and max_failures=2",
        ),
        ({"workers": (2, 1)}, r"\(least, most\) workers in this order"),
        ({"workers": 1, "retries": -1}, "retries >= 0, but got wait=None, retries=-1"),
        (
            {
                "scaling": ScalingConfig(
                    num_workers=1, resources_per_worker={"CPU": 1, "special": -1}
                )
            },
            "must be numbers >= 0, but got special=-1",
        ),
        (
            {"scaling": ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0})},
            "each worker must hold something, but got resources of 0 alone",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(where, message):
    with pytest.raises(ValueError, match=message) as refused:
        train(config(), progress=False, **where)
    assert "\n" not in str(refused.value)
