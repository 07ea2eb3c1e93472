"""The jobs on an autoscaling cluster with the worker groups of cluster.yaml."""

import os

import pandas as pd
import pytest
import simulated
from simulated import FakeMachines, until

from raymeta.results.jsonlines import JsonLines
from raymeta.search import compare
from raymeta.train import recipe, train
from raymeta.train.checkpoints import last_step

# Half a minute each on a quiet machine; a busy one gets its time.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
LONG_S = 400

SEARCH = {
    "tasks": "quadratic",
    "methods": ["random", "asha"],
    "budget": 400,
    "seeds": 2,
}
TRAINING = {
    "outer_steps": 300,
    "tasks_per_step": 4,
    "val_tasks": 4,
    "test_tasks": 4,
    "test_steps": 1,
    "checkpoint_every": 20,
    "dtype": "float64",
}


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    machines = FakeMachines(tmp_path_factory.mktemp("machines"))
    yield machines
    machines.end()


def flags(settings):
    """The command line's words for settings."""
    words = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


def begin(machines, *command):
    """Submit a job and leave it; returns its id."""
    name = f"job-{os.urandom(4).hex()}"
    options = ("--no-wait", "--submission-id", name)
    done = machines.submit(*command, options=options)
    assert done.returncode == 0, done.stdout
    return name


def end_of(machines, job):
    """The last status of a job, once it is over."""

    def over():
        status = machines.ask(f"jobs/{job}")["status"]
        return status in ("SUCCEEDED", "FAILED", "STOPPED") and status

    status = until(over, LONG_S, f"{job} is over")
    print(machines.ask(f"jobs/{job}/logs")["logs"])  # shown where the test fails
    return status


def kill_node(machines, node):
    machines.kill(f"RAY_OVERRIDE_NODE_ID_FOR_TESTING={node['node_id']}")


def test_jobs_scale_a_cluster_from_nothing_and_survive_their_nodes(
    machines, cluster, tmp_path
):
    """Trials on CPUs, and beside them a training on GPUs."""
    assert machines.workers() == []
    searched, trained = tmp_path / "search", tmp_path / "training"
    place = {"storage": tmp_path, "name": "search", "slots": 3}
    search = begin(machines, "jobs/compare.py", *flags(SEARCH | place))
    journal = searched / "journal.jsonl"

    def trials_run():
        return journal.exists() and journal.read_bytes().count(b"\n") > 20

    until(trials_run, LONG_S, "trials run")
    (node,) = machines.workers()
    assert node["resources_total"]["CPU"] in {
        group["resources"]["CPU"] for group in simulated.worker_groups().values()
    }
    kill_node(machines, node)

    place = {"storage": tmp_path, "name": "training", "workers": 2, "gpus": 2}
    training = begin(machines, "jobs/meta_train.py", *flags(TRAINING | place))
    log, events = JsonLines(trained / "events.jsonl"), []

    def steps_are_made():
        events.extend(log.read_new())
        # Which is told when it is on the disk.
        return any(e["event"] == "checkpoint" and e["step"] >= 20 for e in events)

    until(steps_are_made, LONG_S, "outer steps are made")
    nodes = [n for n in machines.workers() if "GPU" in n["resources_total"]]
    assert [node["resources_total"]["GPU"] for node in nodes] == [1, 1]
    kill_node(machines, nodes[0])

    assert end_of(machines, search) == end_of(machines, training) == "SUCCEEDED"
    place = {"storage": tmp_path, "name": "here", "progress": False}
    here = compare(**SEARCH, **place, slots=2)
    pd.testing.assert_frame_equal(
        pd.read_parquet(searched / "frame.parquet").drop(columns="wall_s"),
        here.drop(columns="wall_s"),
    )
    events.extend(log.read_new())
    starts = [event for event in events if event["event"] == "start"]
    assert [(event["attempt"], event["workers"]) for event in starts] == [
        (1, 2),
        (2, 2),
    ]
    assert starts[1]["step"] >= 20
    place["name"] = "here-too"
    here = train(recipe("maml", "sinusoid", **TRAINING), **place)
    there = pd.read_parquet(trained / "frame.parquet").query("split == 'test'")
    assert there["outer_loss"].tolist() == pytest.approx(
        here.evaluation["outer_loss"].tolist(), rel=1e-9
    )
    until(lambda: machines.workers() == [], LONG_S, "the cluster is back at nothing")


def test_a_stopped_job_leaves_a_frame_and_a_checkpoint(machines, tmp_path):
    many = TRAINING | {"outer_steps": 1_000_000, "checkpoint_every": 100_000}
    place = {"storage": tmp_path, "name": "x", "workers": 1}
    job = begin(machines, "jobs/meta_train.py", *flags(many | place))
    log = JsonLines(tmp_path / "x" / "events.jsonl")

    def under_way():
        return any(event.get("step", 0) > 0 for event in log.read_new())

    until(under_way, LONG_S, "outer steps are made")
    stopped = machines.run("ray", "job", "stop", job, "--address", machines.address)
    assert stopped.returncode == 0, stopped.stdout
    assert end_of(machines, job) == "STOPPED"
    said = machines.ask(f"jobs/{job}/logs")["logs"]
    found = f"raymeta: interrupted: what was found is in {tmp_path}/x/frame.parquet"
    assert f"{found}; go on with: python jobs/meta_train.py --algorithm maml" in said
    assert "Traceback" not in said
    step = last_step(tmp_path / "x" / "seed-0")
    assert step > 0
    frame = pd.read_parquet(tmp_path / "x" / "frame.parquet").query("split == 'train'")
    assert frame["outer_step"].tolist() == list(range(step))


def test_what_no_group_has_is_refused_with_an_exit_code(machines, tmp_path):
    place = {"storage": tmp_path, "name": "x", "workers": 1, "gpus": 2}
    done = machines.submit("jobs/meta_train.py", *flags(TRAINING | place))
    assert done.returncode == 1
    said = "each of the workers needs 1 CPU and 2 GPU on one node, but no group"
    assert said in done.stdout
    assert "gpu: 4 CPU and 1 GPU" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_wrong_token_is_refused(machines, tmp_path):
    wrong = tmp_path / "token"
    wrong.write_text("fedcba0987654321" * 4)  # pragma: allowlist secret
    # Ray would try for twenty seconds.
    stranger = {"RAY_AUTH_TOKEN_PATH": str(wrong), "RAY_NUM_REDIS_GET_RETRIES": "2"}
    address = {"RAY_ADDRESS": machines.gcs}
    by_hand = machines.run(
        *("python", "jobs/compare.py", "--storage", tmp_path),
        environment=stranger | address,
    )
    assert by_hand.returncode == 2
    assert "refuses this process" in by_hand.stdout
    assert "Traceback" not in by_hand.stdout
