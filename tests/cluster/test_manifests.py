"""The other places where the jobs run: Kubernetes, one's own machines, a submission."""

import jsonschema
import pytest
import simulated
import yaml
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private import util
from ray.runtime_env import RuntimeEnv

from raymeta import cli


def load(name):
    return yaml.safe_load((simulated.ROOT / "jobs" / name).read_text())


def strict(required=(), **properties):
    """The schema of an object without other properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


# What KubeRay 1.3 to 1.5 (ray.io/v1) and Kubernetes take, as far as the manifest goes:
# names, types and what is required, from their API references.
TEXT, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
SWITCH, OBJECT = {"type": "boolean"}, {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
QUANTITIES = {
    "type": "object",
    "additionalProperties": {"type": "string", "pattern": r"^\d+(m|Ki|Mi|Gi)?$"},
}
ENVIRONMENT = {
    "type": "array",
    "items": strict(["name"], name=TEXT, value=TEXT, valueFrom=OBJECT),
}
CONTAINER = strict(
    ["name", "image"],
    name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
    image=TEXT,
    env=ENVIRONMENT,
    resources=strict(requests=QUANTITIES, limits=QUANTITIES),
    ports={
        "type": "array",
        "items": strict(
            ["containerPort"],
            containerPort=COUNT,
            name={"type": "string", "maxLength": 15},
        ),
    },
    volumeMounts={
        "type": "array",
        "items": strict(["mountPath", "name"], mountPath=TEXT, name=TEXT),
    },
)
POD = strict(
    ["spec"],
    spec=strict(
        ["containers"],
        containers={"type": "array", "items": CONTAINER, "minItems": 1},
        volumes={
            "type": "array",
            "items": strict(["name"], name=TEXT, persistentVolumeClaim=OBJECT),
        },
        restartPolicy={"enum": ["Never", "OnFailure"]},
        nodeSelector=TEXTS,
        tolerations={
            "type": "array",
            "items": strict(key=TEXT, operator=TEXT, effect=TEXT),
        },
    ),
)
HEAD = strict(
    ["rayStartParams", "template"],
    rayStartParams=TEXTS,
    template=POD,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
)
WORKERS = strict(
    ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=TEXTS,
    template=POD,
)
AUTOSCALER = strict(
    idleTimeoutSeconds=COUNT,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    env=ENVIRONMENT,
)
RAY_JOB = strict(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=strict(["name"], name=TEXT, namespace=TEXT, labels=TEXTS),
    spec=strict(
        entrypoint=TEXT,
        backoffLimit=COUNT,
        shutdownAfterJobFinishes=SWITCH,
        ttlSecondsAfterFinished=COUNT,
        runtimeEnvYAML=TEXT,
        submitterPodTemplate=POD,
        rayClusterSpec=strict(
            ["headGroupSpec"],
            rayVersion=TEXT,
            enableInTreeAutoscaling=SWITCH,
            autoscalerOptions=AUTOSCALER,
            headGroupSpec=HEAD,
            workerGroupSpecs={"type": "array", "items": WORKERS},
        ),
    ),
)


def test_the_manifest_is_what_kuberay_takes():
    job = load("kuberay.yaml")
    jsonschema.validate(job, RAY_JOB)
    job["spec"]["rayClusterSpec"]["workerGroupSpec"] = []
    with pytest.raises(jsonschema.ValidationError, match="workerGroupSpec"):
        jsonschema.validate(job, RAY_JOB)


def test_the_manifest_has_the_groups_of_the_cluster_and_flags_that_the_job_takes():
    spec = load("kuberay.yaml")["spec"]
    cluster, groups = spec["rayClusterSpec"], simulated.worker_groups()
    for group in cluster["workerGroupSpecs"]:
        same = groups["gpu_spot" if group["groupName"] == "gpu" else group["groupName"]]
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        assert int(limits["cpu"]) == same["resources"]["CPU"]
        assert int(limits.get("nvidia.com/gpu", 0)) == same["resources"].get("GPU", 0)
        assert group["maxReplicas"] == same["max_workers"]
        assert group["minReplicas"] == 0
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    pinned = (simulated.ROOT / "requirements.txt").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in pinned
    python, script, *flags = spec["entrypoint"].split()
    assert (python, script) == ("python", "jobs/compare.py")
    cli.parser().parse_args(["compare", *flags])
    RuntimeEnv(**yaml.safe_load(spec["runtimeEnvYAML"]) | {"working_dir": "."})


def test_the_cluster_of_ones_own_machines_is_valid():
    config = util.prepare_config(load("local_cluster.yaml"))
    util.validate_config(config)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])


def test_an_upload_is_small_and_has_what_a_job_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(simulated.ROOT)
    excludes = load("runtime_env.yaml")["excludes"]
    package = tmp_path / "package.zip"
    create_package(".", package, include_gitignore=True, excludes=excludes)
    import zipfile

    names = zipfile.ZipFile(package).namelist()
    assert "jobs/compare.py" in names
    assert "raymeta/cli.py" in names
    assert not [n for n in names if n.startswith(("tests", ".git/", ".figures"))]
    assert package.stat().st_size < 3 << 20
