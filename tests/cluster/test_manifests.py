"""The other places where the jobs run: Kubernetes, one's own machines, a submission."""

import runpy

import jsonschema
import pytest
import simulated
import yaml
from packaging.version import Version
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private import util
from ray.runtime_env import RuntimeEnv

from raymeta import cli
from raymeta.runtime import spot


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


# What KubeRay's CustomResourceDefinition takes, without the fields that the manifest
# leaves out: RayJob's spec is the jobTemplate in openAPIV3Schema of
# helm-chart/kuberay-operator/crds/ray.io_raycronjobs.yaml of ray-project/kuberay at
# commit 034971d (2026; v1, with everything that KubeRay 1.5.1 has). An API server drops
# unknown fields, or refuses them; here they are refused.
TEXT, SWITCH = {"type": "string"}, {"type": "boolean"}
COUNT = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}  # int32
TEXTS = {"type": "object", "additionalProperties": TEXT}
QUANTITIES = {
    "type": "object",
    "additionalProperties": {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": (
            r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|"
            r"([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
        ),
    },
}


def several(items):
    """The schema of a list."""
    return {"type": "array", "items": items}


CONTAINER = strict(
    ["name"],
    name=TEXT,
    image=TEXT,
    resources=strict(requests=QUANTITIES, limits=QUANTITIES),
    securityContext=strict(
        allowPrivilegeEscalation=SWITCH, capabilities=strict(drop=several(TEXT))
    ),
    ports=several(strict(["containerPort"], containerPort=COUNT, name=TEXT)),
    volumeMounts=several(strict(["mountPath", "name"], mountPath=TEXT, name=TEXT)),
)
CLAIM = strict(["claimName"], claimName=TEXT, readOnly=SWITCH)
POD = strict(
    spec=strict(
        ["containers"],
        containers=several(CONTAINER),
        volumes=several(
            strict(
                ["name"],
                name=TEXT,
                persistentVolumeClaim=CLAIM,
                emptyDir=strict(medium={"enum": ["", "Memory"]}, sizeLimit=TEXT),
            )
        ),
        securityContext=strict(
            runAsNonRoot=SWITCH,
            runAsUser=COUNT,
            runAsGroup=COUNT,
            fsGroup=COUNT,
            seccompProfile=strict(["type"], type={"enum": ["RuntimeDefault"]}),
        ),
        restartPolicy=TEXT,
        nodeSelector=TEXTS,
        tolerations=several(strict(key=TEXT, operator=TEXT, effect=TEXT)),
    ),
)
HEAD = strict(["template"], rayStartParams=TEXTS, template=POD, serviceType=TEXT)
WORKERS = strict(
    ["groupName", "maxReplicas", "minReplicas", "template"],
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
)
RAY_CLUSTER = strict(
    ["headGroupSpec"],
    rayVersion=TEXT,
    authOptions=strict(mode={"enum": ["disabled", "token"]}),
    enableInTreeAutoscaling=SWITCH,
    autoscalerOptions=AUTOSCALER,
    headGroupSpec=HEAD,
    workerGroupSpecs=several(WORKERS),
)
RAY_JOB = strict(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata={"type": "object"},
    spec=strict(
        entrypoint=TEXT,
        backoffLimit=COUNT,
        shutdownAfterJobFinishes=SWITCH,
        ttlSecondsAfterFinished=COUNT,
        runtimeEnvYAML=TEXT,
        submitterPodTemplate=POD,
        rayClusterSpec=RAY_CLUSTER,
    ),
)


def test_the_manifest_is_what_kuberay_takes():
    job = load("kuberay.yaml")
    jsonschema.validate(job, RAY_JOB)
    # What the schema cannot say, the operator checks: a token needs this version.
    assert Version(job["spec"]["rayClusterSpec"]["rayVersion"]) >= Version("2.52")
    job["spec"]["rayClusterSpec"]["workerGroupSpec"] = []
    with pytest.raises(jsonschema.ValidationError, match="workerGroupSpec"):
        jsonschema.validate(job, RAY_JOB)


def test_the_cluster_that_stays_is_that_of_the_job():
    cluster = load("kuberay_cluster.yaml")
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    jsonschema.validate(cluster["spec"], RAY_CLUSTER)
    assert cluster["spec"] == load("kuberay.yaml")["spec"]["rayClusterSpec"]


def test_containers_are_not_root_and_have_shared_memory():
    cluster = load("kuberay_cluster.yaml")["spec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert "ephemeral-storage" in container["resources"]["limits"]
        (mount,) = (
            m for m in container["volumeMounts"] if m["mountPath"] == "/dev/shm"
        )
        (volume,) = (v for v in pod["volumes"] if v["name"] == mount["name"])
        assert volume["emptyDir"]["medium"] == "Memory"


def test_the_image_is_pinned_and_not_root():
    text = (simulated.ROOT / "Dockerfile").read_text()
    pinned = (simulated.ROOT / "requirements.txt").read_text().splitlines()
    (ray,) = (line for line in pinned if line.startswith("ray=="))
    (torch,) = (line for line in pinned if line.startswith("torch=="))
    assert f"ARG RAY={ray.removeprefix('ray==')}\n" in text
    assert f'"{torch}+cpu"' in text
    stages = text.split("\nFROM ")[1:]
    assert [stage.split()[0].rpartition("-")[2] for stage in stages] == ["cpu", "gpu"]
    kept = (simulated.ROOT / ".dockerignore").read_text().splitlines()
    for stage in stages:
        assert stage.splitlines()[1] == "USER ray"
        # Who makes the folder owns it, and pip writes in it; WORKDIR makes it root's.
        made, entered = (
            f"\n{do} /home/ray/raymeta\n" for do in ("RUN mkdir", "WORKDIR")
        )
        assert 0 < stage.index(made) < stage.index(entered)
        assert "root" not in stage
        for line in stage.splitlines():
            if line.startswith("COPY"):
                for name in line.split()[2:-1]:
                    assert (simulated.ROOT / name).exists()
                    assert f"!{name}" in kept


def test_the_manifest_has_the_groups_of_the_cluster_and_flags_that_the_job_takes():
    spec = load("kuberay.yaml")["spec"]
    cluster, groups = spec["rayClusterSpec"], simulated.worker_groups()
    for group in cluster["workerGroupSpecs"]:
        same = groups[group["groupName"]]
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


def test_an_optimization_is_a_job(tmp_path, monkeypatch):
    flags = ["--budget", "120", "--name", "x", "--storage", str(tmp_path)]
    script = str(simulated.ROOT / "jobs" / "optimize.py")
    monkeypatch.setattr("sys.argv", [script, "--estimator", "reverse", *flags])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    assert ended.value.code == 0
    assert (tmp_path / "x" / "loss_curves.png").exists()


def test_the_cluster_of_ones_own_machines_is_valid():
    config = util.prepare_config(load("local_cluster.yaml"))
    util.validate_config(config)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])


def test_the_cluster_on_google_is_valid_and_like_the_one_on_aws():
    config = util.prepare_config(load("cluster-gcp.yaml"))
    util.validate_config(config)
    aws = yaml.safe_load((simulated.ROOT / "cluster.yaml").read_text())
    assert config["docker"]["image"] == aws["docker"]["image"]
    assert config["file_mounts"].keys() >= aws["file_mounts"].keys()
    kept = ("resources", "min_workers", "max_workers")
    types = config["available_node_types"]
    assert {
        name: {key: group[key] for key in kept} for name, group in types.items()
    } == {
        name: {key: group[key] for key in kept}
        for name, group in aws["available_node_types"].items()
    }
    spot = [
        {**node["node_config"].get("scheduling", [{}])[0]} for node in types.values()
    ]
    assert [way.get("provisioningModel") for way in spot] == [None, "SPOT", "SPOT"]
    assert config["available_node_types"]["gpu"]["docker"] == {
        "worker_image": aws["available_node_types"]["gpu"]["docker"]["worker_image"]
    }
    with pytest.raises(Exception, match="idle_timeout"):
        util.validate_config(
            util.prepare_config(load("cluster-gcp.yaml") | {"idle_timeout": 5})
        )


@pytest.mark.parametrize("name", ["../cluster.yaml", "cluster-gcp.yaml"])
def test_nodes_that_may_go_have_a_watcher(name):
    config = load(name)
    (command,) = (c for c in config["worker_start_ray_commands"] if "spot" in c)
    words = command.split()
    assert words[-1] == "&"
    arguments = words[words.index("raymeta.runtime.spot") + 1 : words.index(">")]
    with pytest.raises(SystemExit) as ended:
        spot.main([*arguments, "--help"])
    assert ended.value.code == 0
    assert arguments[:2] == ["--cloud", "gcp"] or "gcp" not in name


def test_an_upload_is_small_and_has_what_a_job_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(simulated.ROOT)
    excludes = load("runtime_env.yaml")["excludes"]
    package = tmp_path / "package.zip"
    create_package(".", package, include_gitignore=True, excludes=excludes)
    import zipfile

    names = zipfile.ZipFile(package).namelist()
    assert "jobs/compare.py" in names
    assert "raymeta/cli/__init__.py" in names
    assert not [n for n in names if n.startswith(("tests", ".git/", "docs/figures"))]
    assert package.stat().st_size < 3 << 20
