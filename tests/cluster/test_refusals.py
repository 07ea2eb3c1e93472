"""What a cluster cannot do is said in one line, before anything waits for it."""

import copy
import errno
import functools
import resource
import subprocess
import sys
from collections import deque
from contextlib import closing, contextmanager
from types import SimpleNamespace

import pandas as pd
import pytest
import simulated
import yaml

from raymeta import cli
from raymeta.results.jsonlines import JsonLines
from raymeta.results.run_folder import write_frame
from raymeta.runtime import cluster as cluster_module
from raymeta.runtime.cluster import Group, require_possible, require_shared
from raymeta.runtime.ray_session import ray, running
from raymeta.search import compare

GROUPS = [Group("cpu", {"CPU": 8.0}, 16), Group("gpu", {"CPU": 4.0, "GPU": 1.0}, 8)]


@pytest.fixture
def autoscaling(monkeypatch):
    """The groups of an autoscaling cluster without nodes, in place of one."""
    monkeypatch.setattr(cluster_module, "groups", lambda: GROUPS)
    monkeypatch.setattr(ray, "nodes", lambda: [])


def test_groups_are_those_that_ray_up_left_on_the_head(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cluster_module.groups() == []
    text = (simulated.ROOT / "cluster.yaml").read_text()
    (tmp_path / "ray_bootstrap_config.yaml").write_text(text)
    found = {group.name: group for group in cluster_module.groups()}
    assert set(found) == {"cpu", "gpu"}
    assert found["gpu"] == Group("gpu", {"CPU": 4, "GPU": 1}, 8)


def test_what_the_groups_have_room_for_is_possible(autoscaling):
    require_possible({"CPU": 1.0}, 16 * 8 + 8 * 4, "workers")
    require_possible({"CPU": 1.0, "GPU": 0.25}, 32, "trials")


@pytest.mark.parametrize(
    ("bundle", "count", "match"),
    [
        (
            {"CPU": 1.0, "GPU": 2.0},
            1,
            r"each of the workers needs 1 CPU and 2 GPU on one node, but no group of "
            r"nodes has that \(cpu: 8 CPU and 0 GPU; gpu: 4 CPU and 1 GPU\)",
        ),
        (
            {"CPU": 1.0, "GPU": 1.0},
            9,
            r"9 workers need 1 CPU and 1 GPU each, but the cluster has room for 8 of "
            r"them at most \(gpu 8\)",
        ),
    ],
)
def test_what_no_group_could_hold_is_refused(autoscaling, bundle, count, match):
    with pytest.raises(ValueError, match=match):
        require_possible(bundle, count, "workers")


@pytest.mark.ray
def test_trials_that_no_node_could_hold_are_refused(cluster, tmp_path):
    match = "each of the trials needs 1 CPU and 0.5 GPU on one node, but no node has"
    with pytest.raises(ValueError, match=match):
        compare("quadratic", "random", gpus_per_trial=0.5, storage=tmp_path, name="x")


@pytest.mark.ray
def test_a_folder_that_a_node_does_not_see_is_refused(cluster, tmp_path, monkeypatch):
    require_shared(tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(cluster_module, "_reads", lambda path, token: False)
    with pytest.raises(ValueError, match=rf"does not see {tmp_path}: pass a storage"):
        require_shared(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_address_where_nothing_answers_is_refused():
    script = "from raymeta.runtime.ray_session import running\nwith running(1): pass"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"RAY_ADDRESS": "127.0.0.1:1", "PATH": ""},
        capture_output=True,
        text=True,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ValueError: RAY_ADDRESS=127.0.0.1:1 must be that of a")


def test_other_versions_are_named(monkeypatch):
    """What Ray says of them, over several lines."""
    said = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.9\n    Python: 3.9"
    )

    def init(**options):
        raise RuntimeError(said)

    fake = SimpleNamespace(
        init=init,
        is_initialized=lambda: False,
        shutdown=lambda: None,
        exceptions=ray.exceptions,
    )
    monkeypatch.setattr("raymeta.runtime.ray_session.ray", fake)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    match = r"started with: Ray: 2.9 Python: 3.9: take its versions"
    with pytest.raises(ValueError, match=match), running(1):
        pass


@contextmanager
def full_disk():
    """A disk that takes 400 bytes a file.

    Of all files: it must be over before pytest writes its own output.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_whole_lines(tmp_path):
    event = {"event": "start", "text": "x" * 100}
    with closing(JsonLines(tmp_path / "journal.jsonl")) as journal:
        with pytest.raises(OSError, match="too large"), full_disk():
            deque(map(journal.append, [event] * 5))
        assert journal.read() == [event] * 2


def test_a_full_disk_leaves_the_frame_before(tmp_path):
    path, frame = tmp_path / "frame.parquet", pd.DataFrame({"x": [1.0]})
    write_frame(frame, path)
    with pytest.raises(OSError, match="too large"), full_disk():
        write_frame(pd.DataFrame({"x": range(1000)}), path)
    pd.testing.assert_frame_equal(pd.read_parquet(path), frame)
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_in_one_line(capsys):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device", "/shared/x")

    assert cli.exit_code(full) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("raymeta: error: the disk of the results is full ([Errno")


WRONG = [None, True, -1, "x", [], {}, [1], {"a": 1}, float("nan"), float("inf"), 1.5]


def test_a_damaged_file_of_ray_up_is_named_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "ray_bootstrap_config.yaml"
    whole = yaml.safe_load((simulated.ROOT / "cluster.yaml").read_text())

    def put(path, value):
        found = copy.deepcopy(whole)
        *outer, last = path
        functools.reduce(lambda at, name: at[name], outer, found)[last] = value
        return yaml.safe_dump(found).encode()

    kinds = "available_node_types"
    places = [[kinds], ["max_workers"], ["head_node_type"], [kinds, "gpu"]]
    places += [[kinds, "gpu", key] for key in ("resources", "max_workers")]
    places += [[kinds, "gpu", "resources", "CPU"]]
    contents = [b"", b"\xff", b"{", b"[" * 9_999, b"- 1", b"x"]
    contents += [put(path, value) for path in places for value in WRONG]
    for content in contents:
        file.write_bytes(content)
        said = ""
        try:
            cluster_module.groups()
        except ValueError as error:
            said = str(error)
        assert "\n" not in said
        assert not said or str(file) in said
    file.unlink()
    file.mkdir()
    with pytest.raises(ValueError, match=r"Is a directory.*run `ray up` again"):
        cluster_module.groups()
