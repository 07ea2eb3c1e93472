"""Comparisons on Ray itself: they must equal those of the `bench` without it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import search_toys
from interrupted import SETTINGS, long
from ray import cloudpickle
from search_toys import Bowl, Deadly, Stuck, Unsendable, Walk

from raymeta.cli import main
from raymeta.results.tensors import load_tensors
from raymeta.runtime.ray_session import ray
from raymeta.search import compare
from raymeta.search.fairness import mismatches
from raymeta.search.methods.pbt import Pbt

pytestmark = pytest.mark.ray

TASK = Bowl(nan_above=1.2, raise_above=1.6)
POPULATION = Pbt(population=4, intervals=3, quantile=0.5)
METHODS = ["random", "asha", "tpe", "hyperband", POPULATION, Walk((0.1, 0.9, None))]


# What `interrupted` does, without its pauses.
UNDISTURBED = {k: v for k, v in SETTINGS.items() if k != "name"}
UNDISTURBED["tasks"] = replace(SETTINGS["tasks"], step_s=0.0)


def assert_same(frame, other):
    pd.testing.assert_frame_equal(
        frame.drop(columns="wall_s"), other.drop(columns="wall_s")
    )


def test_a_comparison_from_end_to_end(cluster, bench, tmp_path, monkeypatch):
    lines = []
    settings = {"tasks": TASK, "methods": METHODS, "budget": 60, "seeds": 2}
    where = {"name": "x", "storage": tmp_path, "progress": lines.append}

    frame = compare(**settings, **where)

    assert_same(frame, bench(**settings).run().frame())
    assert {"running", "complete", "failed", "final"} == set(frame.status)
    assert frame.wall_s.between(0, 60).all()
    folder = tmp_path / "x"
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock", "comparison.json", "evidence.json", "frame.parquet", "journal.jsonl",
        "spending.json", "tensorboard",
    ]  # fmt: skip
    evidence = json.loads((folder / "evidence.json").read_text())
    (seeds,) = evidence.values()
    assert {frozenset(at["methods"]) for at in seeds.values()} == {
        frozenset(frame.method)
    }
    assert not mismatches(evidence)
    assert any(line.startswith("evidence: initial weights") for line in lines)
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "frame.parquet"), frame)
    assert "comparing random, asha, tpe, hyperband, pbt, walk" in lines
    assert lines[-1].startswith("finished in")
    assert ray.is_initialized()  # it is not ours

    monkeypatch.setattr("ray.tune.Tuner.fit", lambda self: pytest.fail("ran again"))
    pd.testing.assert_frame_equal(compare(**settings, **where), frame)


def test_one_that_has_grown_is_a_fresh_one(cluster, bench, tmp_path):
    whole = {"tasks": TASK, "methods": METHODS[:3], "budget": 60, "seeds": 2}
    where = {"name": "x", "storage": tmp_path, "progress": False}
    compare(TASK, "random", budget=30, seeds=1, **where)
    compare(TASK, ["random", "tpe"], budget=30, seeds=2, **where)

    grown = compare(**whole, **where)

    order = ["method", "seed", "trial", "gradient_evals"]
    fresh = bench(**whole).run().frame()
    assert_same(
        grown.sort_values(order, kind="stable", ignore_index=True),
        fresh.sort_values(order, kind="stable", ignore_index=True),
    )


def test_a_trial_whose_worker_dies_runs_again(cluster, bench, tmp_path):
    task = Deadly(grave=tmp_path / "grave", driver=os.getpid())
    settings = {"tasks": task, "methods": ["random"], "budget": 30, "seeds": 2}

    frame = compare(**settings, name="x", storage=tmp_path, progress=False)

    assert_same(frame, bench(**settings).run().frame())
    assert (frame.failure == "").all()
    events = (tmp_path / "x" / "journal.jsonl").read_text().splitlines()
    starts = [event for event in events if '"start"' in event]
    assert len(starts) == len(frame) + 1


def test_what_cannot_be_sent_to_a_worker_is_refused(cluster, tmp_path):
    task = Bowl(name=Unsendable("held"))
    with pytest.raises(ValueError, match=r"must be picklable.*lock:") as error:
        compare(task, "random", storage=tmp_path, name="x", progress=False)
    assert "\n" not in str(error.value)


def test_modules_that_only_the_driver_finds_are_found_by_workers(cluster, tmp_path):
    """Its path has grown since Ray started."""
    cloudpickle.unregister_pickle_by_value(search_toys)
    try:
        frame = compare(
            Bowl(), Walk(), seeds=1, storage=tmp_path, name="x", progress=False
        )
    finally:
        cloudpickle.register_pickle_by_value(search_toys)
    assert (frame.failure == "").all()


def test_unseeded_data_end_in_an_error_and_a_frame(cluster, tmp_path, capsys):
    """Each worker samples data of its own."""
    file = tmp_path / "unseeded.py"
    file.write_text(UNSEEDED.format(driver=os.getpid(), notes=str(tmp_path / "notes")))
    flags = ["--seeds", "1", "--budget", "60", "--name", "x", "--storage"]
    flags.append(str(tmp_path))

    code = main(["compare", "--tasks", f"{file}:Unseeded", *SEARCHES, *flags])

    said = capsys.readouterr()
    assert code == 2
    assert "INVALID, for methods did not train on the same" in said.out
    (line,) = [line for line in said.err.splitlines() if "raymeta: error" in line]
    assert "weights" in line
    assert "seed the data" in line
    assert "Unseeded" not in line
    frame = pd.read_parquet(tmp_path / "x" / "frame.parquet")
    assert set(frame["status"]) >= {"complete", "final"}
    assert "INVALID" in (tmp_path / "x" / "report.html").read_text()
    assert main(["report", str(tmp_path / "x")]) == 2


SEARCHES = ["--methods", "random", "sobol"]
UNSEEDED = """
import os, pathlib, time
from raymeta.tasks import Quadratic

class Unseeded(Quadratic):
    def sample(self, seed):
        if os.getpid() != {driver}:  # both workers must come to it
            notes = pathlib.Path({notes!r})
            notes.mkdir(exist_ok=True)
            (notes / str(os.getpid())).touch()
            deadline = time.monotonic() + 100
            while len(list(notes.iterdir())) < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
        return super().sample(time.time_ns() % 2**31)
"""


def start(storage, which="short", under_way=None, **environment):
    """Start a comparison of `interrupted` and wait until it is well under way."""
    path = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        [
            sys.executable,
            Path(search_toys.__file__).with_name("interrupted.py"),
            storage,
            which,
        ],
        env=os.environ | {"PYTHONPATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    journal = storage / "interrupted" / "journal.jsonl"

    def has_said_much():
        return journal.exists() and journal.read_bytes().count(b"\n") >= 40

    deadline = time.monotonic() + 90
    while not (under_way or has_said_much)():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it did not get under way"
        time.sleep(0.02)
    return process


def test_a_killed_driver_continues_like_the_undisturbed_run(cluster, bench, tmp_path):
    process = start(tmp_path, RAY_ADDRESS=cluster)
    process.kill()
    process.communicate()
    before = (tmp_path / "interrupted" / "journal.jsonl").read_text()
    undisturbed = bench(**UNDISTURBED).run()
    assert 40 <= before.count("\n") < len(undisturbed.journal.read())

    frame = compare(**SETTINGS, storage=tmp_path, progress=False)

    assert_same(frame, undisturbed.frame())
    after = (tmp_path / "interrupted" / "journal.jsonl").read_text()
    assert after.startswith(before[: before.rindex("\n")])
    record = json.loads((tmp_path / "interrupted" / "comparison.json").read_text())
    assert len(record["runs"]) == 2


def test_a_killed_driver_continues_its_descents_where_they_were(
    cluster, bench, tmp_path
):
    """Every step that was taken before a log was saved is not taken again."""
    settings, states = long(tmp_path), tmp_path / "interrupted" / ".states" / "noted"
    logs = [states / name / "0/0/snapshot.pt" for name in settings["methods"]]
    saved = {}

    def are_saved():
        saved.update({t: load_tensors(t)["length"] for t in logs if t.exists()})
        return len(saved) == 2 and max(saved.values()) > 60

    process = start(tmp_path, "long", are_saved, RAY_ADDRESS=cluster)
    process.kill()
    process.communicate()
    before, notes = -1, tmp_path / "steps"
    while before < (before := notes.stat().st_size):
        time.sleep(1.0)  # its workers die, too
    (tmp_path / "undisturbed").mkdir()
    undisturbed = long(tmp_path / "undisturbed", step_s=0.0)
    del undisturbed["name"]
    expected = bench(**undisturbed).run().frame()
    needed = (tmp_path / "undisturbed" / "steps").stat().st_size

    frame = compare(**settings, storage=tmp_path, progress=False)

    assert_same(frame, expected)
    taken = notes.stat().st_size - before
    assert taken <= needed - sum(saved.values()) + 10  # first steps of new workers
    assert frame.groupby("method").wall_s.max().gt(0.01 * needed / 4).all()
    assert not states.exists()


def test_ctrl_c_leaves_a_readable_frame_and_no_ray(cluster, bench, tmp_path):
    process = start(tmp_path)  # with a Ray of its own
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)

    assert time.monotonic() - asked < 15
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in output.splitlines()[-1]
    left = pd.read_parquet(tmp_path / "interrupted" / "frame.parquet")
    assert len(left) > 10
    assert not (tmp_path / "interrupted" / ".tune").exists()

    # All of it is what the undisturbed run reports, and each study's beginning.
    whole = bench(**UNDISTURBED).run().frame()
    for study, rows in left.groupby(["method", "seed"]):
        undisturbed = whole[(whole.method == study[0]) & (whole.seed == study[1])]
        assert_same(
            rows.reset_index(drop=True),
            undisturbed.head(len(rows)).reset_index(drop=True)[left.columns],
        )


def test_ctrl_c_frees_a_cluster_that_goes_on(cluster, tmp_path):
    task = Stuck(arrived=tmp_path / "arrived", driver=os.getpid())
    asked = []

    def interrupt_when_stuck():
        while not task.arrived.exists():
            time.sleep(0.1)
        asked.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_when_stuck, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        compare(task, "random", seeds=2, name="x", storage=tmp_path, progress=False)

    assert time.monotonic() - asked[0] < 10
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() < deadline, "trials go on"
        time.sleep(0.1)
