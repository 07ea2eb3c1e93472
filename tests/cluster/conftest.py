"""Simulated clouds and machines."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))
import mocked_aws
import simulated


@pytest.fixture(scope="session")
def aws():
    """The address of a mocked AWS, with the instance profiles of cluster.yaml."""
    import boto3

    (port,) = simulated.free_ports(1)
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", mocked_aws.__file__, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        simulated.until(lambda: simulated.listens(port), 60, "the mocked AWS is up")
        iam = boto3.client("iam", region_name="us-west-2", **simulated.client(url))
        for name in ("raymeta-head", "raymeta-worker"):
            iam.create_instance_profile(InstanceProfileName=name)
        yield url
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def cluster_environment(aws):
    return simulated.aws_environment(aws)


@pytest.fixture
def bucket(aws, monkeypatch):
    """The address of an empty folder on the mocked S3, which this process can reach."""
    import boto3

    for name, value in simulated.aws_environment(aws).items():
        monkeypatch.setenv(name, value)
    s3 = boto3.client("s3", region_name="us-west-2", **simulated.client(aws))
    name = f"results-{len(s3.list_buckets()['Buckets'])}"
    s3.create_bucket(
        Bucket=name, CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
    )
    return f"s3://{name}/deep"
