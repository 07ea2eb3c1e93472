"""The whole life of a cluster: up, jobs, scaling, down; on a mocked AWS and at home."""

import pandas as pd
import pytest
from mocked_aws import WITHOUT_SPOT
from simulated import Cloud, OwnMachines, until

pytestmark = [pytest.mark.ray, pytest.mark.simulation, pytest.mark.timeout(1500)]

TRAINING = "--outer-steps 20 --val-tasks 4 --test-tasks 4 --test-steps 1 --name far"


@pytest.fixture
def cloud(request, aws, tmp_path):
    """A cluster that is up, with the suffix of its name as parameter."""
    cloud = Cloud(tmp_path / "cloud", aws, suffix=getattr(request, "param", ""))
    try:
        cloud.up()
        yield cloud
    finally:
        cloud.end()


def launched(cloud):
    """The workers that there are or were."""
    ever = ("pending", "running", "shutting-down", "terminated")
    return [one for one in cloud.instances(*ever) if one["InstanceType"][0] != "m"]


def fetch(cluster, there, here):
    """As docs/cluster.md does it."""
    places = (f"{place}/" for place in (there, here))
    done = cluster.run("ray", "rsync-down", cluster.config, *places)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("cloud", [WITHOUT_SPOT], indirect=True)
def test_where_spot_instances_are_refused_the_job_runs_on_others(cloud, tmp_path):
    place = f"--storage {tmp_path / 'shared'} --workers 1 --gpus 1"
    trained = cloud.submit(
        *("jobs/meta_train.py", *TRAINING.split(), *place.split()), seconds=500
    )
    assert trained.returncode == 0, trained.stdout
    assert "1 GPU, but the cluster has 0; waiting" in trained.stdout
    (worker,) = launched(cloud)
    assert worker["InstanceType"] == "g5.xlarge"
    assert "InstanceLifecycle" not in worker


def test_up_jobs_down(cloud, tmp_path):
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
    workers = launched(cloud)
    assert len(workers) >= 2
    assert {one["InstanceType"] for one in workers} == {"g5.xlarge"}
    assert {one["InstanceLifecycle"] for one in workers} == {"spot"}

    flags = "--tasks quadratic --methods random --budget 100 --seeds 2 --slots 2"
    place = f"--name c --storage {tmp_path / 'shared'}"
    with cloud.forwarded():
        searched = cloud.submit(
            *("jobs/compare.py", *flags.split(), *place.split()), seconds=400
        )
    assert searched.returncode == 0, searched.stdout
    fetch(cloud, tmp_path / "shared" / "c", tmp_path / "c")
    assert set(pd.read_parquet(tmp_path / "c" / "frame.parquet")["seed"]) == {0, 1}

    def alone():
        return [one["InstanceId"] for one in cloud.instances("running", "pending")] == [
            head["InstanceId"]
        ]

    until(alone, 120, "idle workers are terminated")
    down = cloud.run("ray", "down", "-y", cloud.config)
    assert down.returncode == 0, down.stdout
    assert cloud.instances("running", "pending") == []


def test_ones_own_machines(tmp_path):
    machines, shared = OwnMachines(tmp_path / "machines"), tmp_path / "shared"
    try:
        machines.up()
        until(lambda: len(machines.workers()) == 2, 120, "the workers have joined")
        flags = f"--workers 2 --storage {shared}"
        with machines.forwarded():
            trained = machines.submit(
                *("jobs/meta_train.py", *TRAINING.split(), *flags.split())
            )
        assert trained.returncode == 0, trained.stdout
        assert "seed 0 begins on 2 processes" in trained.stdout
        fetch(machines, shared / "far", tmp_path / "far")
        frame = pd.read_parquet(tmp_path / "far" / "frame.parquet")
        assert set(frame["split"]) == {"train", "val", "test"}
        down = machines.run("ray", "down", "-y", machines.config)
        assert down.returncode == 0, down.stdout
        assert machines.calls("ray")[-1] == ["192.168.1.10", "ray", "stop"]
        # Workers notice by themselves that the head is gone.
        until(lambda: not machines.running("raylet"), 180, "all nodes have stopped")
    finally:
        machines.end()
