"""The whole life of cluster.yaml on a mocked AWS: up, jobs, scaling, down."""

import pandas as pd
import pytest
from simulated import Cloud, until

pytestmark = [pytest.mark.ray, pytest.mark.simulation, pytest.mark.timeout(1500)]

TRAINING = "--outer-steps 20 --val-tasks 4 --test-tasks 4 --test-steps 1 --name far"


@pytest.fixture
def cloud(aws, tmp_path):
    cloud = Cloud(tmp_path / "cloud", aws)
    yield cloud
    cloud.end()


def test_up_jobs_down(cloud, tmp_path):
    up = cloud.run("ray", "up", "-y", "--no-config-cache", cloud.config, seconds=400)
    assert up.returncode == 0, up.stdout
    (head,) = cloud.instances("running")
    assert head["InstanceType"] == "m7i.xlarge"
    assert head["MetadataOptions"]["HttpTokens"] == "required"
    installed = [call for call in cloud.calls("pip") if "torch==2.13.0+cpu" in call]
    assert [call[0] for call in installed] == [head["PublicIpAddress"]]
    assert any("nfs4" in call for call in cloud.calls("sudo"))

    place = f"--storage {tmp_path / 'shared'} --workers 2 --gpus 2"
    trained = cloud.submit(
        *("jobs/meta_train.py", *TRAINING.split(), *place.split()), seconds=500
    )
    assert trained.returncode == 0, trained.stdout
    assert "seed 0 begins on 2 processes" in trained.stdout
    assert "\x1b[J" not in trained.stdout  # no screen is redrawn in a log
    frame = pd.read_parquet(tmp_path / "shared" / "far" / "frame.parquet")
    assert set(frame["split"]) == {"train", "val", "test"}
    ever = ("pending", "running", "shutting-down", "terminated")
    launched = [one for one in cloud.instances(*ever) if one != head]
    workers = [one for one in launched if one["InstanceId"] != head["InstanceId"]]
    assert len(workers) >= 2
    assert {one["InstanceType"] for one in workers} == {"g5.xlarge"}
    assert {one["InstanceLifecycle"] for one in workers} == {"spot"}

    flags = "--tasks quadratic --methods random --budget 100 --seeds 2 --slots 2"
    place = f"--name c --storage {tmp_path / 'shared'}"
    searched = cloud.submit(
        *("jobs/compare.py", *flags.split(), *place.split()), seconds=400
    )
    assert searched.returncode == 0, searched.stdout
    frame = pd.read_parquet(tmp_path / "shared" / "c" / "frame.parquet")
    assert set(frame["seed"]) == {0, 1}

    def alone():
        return [one["InstanceId"] for one in cloud.instances("running", "pending")] == [
            head["InstanceId"]
        ]

    until(alone, 120, "idle workers are terminated")
    down = cloud.run("ray", "down", "-y", cloud.config)
    assert down.returncode == 0, down.stdout
    assert cloud.instances("running", "pending") == []
