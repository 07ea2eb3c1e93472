"""cluster.yaml against Ray's own checks and a mocked AWS."""

import pytest
import simulated
import yaml
from mocked_aws import WITHOUT_SPOT
from ray.autoscaler._private import util
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
    CloudResourceMonitor,
)
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

from raymeta.runtime.aws_provider import SpotFirst


def load():
    return yaml.safe_load((simulated.ROOT / "cluster.yaml").read_text())


@pytest.fixture(scope="module")
def made(aws, tmp_path_factory):
    """cluster.yaml as `ray up` completes it, with what it made on AWS."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in simulated.aws_environment(aws).items():
            patch.setenv(name, value)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.chdir(simulated.ROOT)
        config = util.prepare_config(load())
        util.validate_config(config)
        yield SpotFirst.bootstrap_config(config)


def test_groups_are_completed_with_keys_subnets_and_one_security_group(made):
    groups = made["available_node_types"]
    nodes = {name: group["node_config"] for name, group in groups.items()}
    (security,) = {tuple(node["SecurityGroupIds"]) for node in nodes.values()}
    assert len(security) == 1
    assert all(node["KeyName"] and node["SubnetIds"] for node in nodes.values())
    assert made["head_node"] == {}  # no role that Ray makes, which may do everything
    names = {name: node["IamInstanceProfile"]["Name"] for name, node in nodes.items()}
    assert names.pop("head") == "raymeta-head"
    assert set(names.values()) == {"raymeta-worker"}


def test_only_ssh_comes_in_from_outside(made, aws):
    import boto3

    ec2 = boto3.client("ec2", region_name="us-west-2", **simulated.client(aws))
    (group,) = made["available_node_types"]["head"]["node_config"]["SecurityGroupIds"]
    (found,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert found["GroupName"] == "raymeta"
    outside = [rule for rule in found["IpPermissions"] if rule["IpRanges"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in outside] == [(22, 22)]
    (inside,) = [rule for rule in found["IpPermissions"] if not rule["IpRanges"]]
    assert [pair["GroupId"] for pair in inside["UserIdGroupPairs"]] == [group]


def test_instances_have_encrypted_disks_and_ask_for_tokens():
    for group in load()["available_node_types"].values():
        node = group["node_config"]
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"])


def test_resources_are_those_of_the_instances(made):
    """The autoscaler plans with what stands in cluster.yaml."""
    config = load()
    for group in config["available_node_types"].values():
        del group["resources"]
    completed = util.prepare_config(config)["available_node_types"]
    full = SpotFirst.fillout_available_node_types_resources(
        {**config, "available_node_types": completed}
    )["available_node_types"]
    stated = load()["available_node_types"]
    assert stated.pop("head")["resources"] == {"CPU": 0, "GPU": 0}
    for name, group in stated.items():
        found = full[name]["resources"]
        assert {key: found[key] for key in group["resources"]} == group["resources"]
        assert group["min_workers"] == 0 < group["max_workers"]


@pytest.mark.parametrize("group", ["cpu", "gpu"])
@pytest.mark.parametrize(("suffix", "market"), [("", "spot"), (WITHOUT_SPOT, None)])
def test_where_spot_instances_are_refused_come_others(made, group, suffix, market):
    provider = SpotFirst(made["provider"], f"raymeta{suffix}")
    node = made["available_node_types"][group]["node_config"]
    created = provider.create_node(node, {"ray-node-name": "x"}, 1)
    (instance,) = created.values()
    assert instance.instance_lifecycle == market
    assert instance.instance_type == node["InstanceType"]
    assert instance.metadata_options["HttpTokens"] == "required"


def test_ray_itself_would_ask_for_spot_again_and_again():
    """When this fails, Ray can take over from SpotFirst: two groups with priorities."""
    refused = InstanceUpdateEvent(
        instance_type="gpu", new_instance_status=Instance.ALLOCATION_FAILED
    )
    monitor = CloudResourceMonitor()
    monitor.notify([refused])
    assert monitor.get_recoverable_resource_availabilities() == {}


def test_what_aws_refuses_on_demand_too_is_said(made):
    provider = SpotFirst(made["provider"], "raymeta")
    node = made["available_node_types"]["gpu"]["node_config"]
    unknown = node | {"IamInstanceProfile": {"Name": "nobody"}}
    with pytest.raises(NodeLaunchException, match="nobody"):
        provider.create_node(unknown, {}, 1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"idle_timeout": 5}, "idle_timeout"),
        ({"max_workers": "many"}, "many"),
        ({"head_node_type": "heads"}, "head_node_type"),
    ],
)
def test_mistakes_are_refused(change, match):
    with pytest.raises(Exception, match=match):
        util.validate_config(util.prepare_config(load() | change))


def test_versions_are_those_of_the_requirements():
    config = load()
    pinned = (simulated.ROOT / "requirements.txt").read_text().splitlines()
    (ray,) = [line for line in pinned if line.startswith("ray==")]
    (torch,) = [line for line in pinned if line.startswith("torch==")]
    images = [config["docker"]["image"]]
    images += [
        group["docker"]["worker_image"]
        for group in config["available_node_types"].values()
        if "docker" in group
    ]
    version = ray.removeprefix("ray==")
    assert {image.rpartition("-")[0] for image in images} == {
        f"rayproject/ray:{version}-py311"
    }
    assert f"{torch}+cpu" in config["head_setup_commands"][0]
