"""Results on an object store."""

import math
import os
import re
import shutil
import time
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from search_toys import Bowl

from jobs.experiments.chaos.door import opened
from raymeta import optimize
from raymeta.cli import main
from raymeta.results import lease, whole_file
from raymeta.results import mirror as storage
from raymeta.results.mirror import Mirror, TakenOverError, at
from raymeta.results.run_folder import RunFolder
from raymeta.search import compare
from raymeta.search.methods import METHODS
from raymeta.search.spec import StudyKey, TrialSpec
from raymeta.search.worker import evaluation_log, trial_runner
from raymeta.search.worker.trial_store import TrialStore
from raymeta.testing.kill import Computed, Killed, untimed
from raymeta.train import recipe, train


def test_a_folder_is_yielded_as_it_is(tmp_path):
    with at(tmp_path) as place:
        assert place == tmp_path
    assert storage.address(tmp_path) == str(tmp_path)
    assert storage.download(tmp_path) == tmp_path


def test_two_processes_see_what_the_other_writes_and_they_follow(bucket, tmp_path):
    one, two = (
        Mirror(bucket, tmp_path / name, follow=follow)
        for name, follow in (("one", ["b"]), ("two", ["parts/*", "*.tmp"]))
    )
    for mirror in (one, two):
        mirror.local.mkdir()
    (one.local / "parts").mkdir()
    (one.local / "parts" / "a").write_text("a1")
    (one.local / "own.tmp").write_text("half")
    one.sync()
    two.sync()
    assert (two.local / "parts" / "a").read_text() == "a1"
    assert not (two.local / "own.tmp").exists()

    (one.local / "parts" / "a").write_text("a22")
    (two.local / "b").write_text("b")
    two.push(two.local / "b")
    one.sync()
    assert (one.local / "b").read_text() == "b"
    two.pull(two.local / "parts" / "a")
    assert (two.local / "parts" / "a").read_text() == "a22"

    (one.local / "parts" / "a").unlink()
    one.sync()
    two.sync()
    assert not (two.local / "parts" / "a").exists()
    assert (two.local / "b").exists()


def test_what_is_written_in_it_is_there_afterwards_and_the_next_time(bucket):
    with at(bucket, "x") as place:
        (place / "x" / "early").write_text("1")
        time.sleep(1.5 * storage.SYNC_EVERY_S)
        with at(bucket, "x") as other:
            assert (other / "x" / "early").read_text() == "1"
        (place / "x" / "late").write_text("2")
        assert storage.address(place / "x" / "late") == f"{bucket}/x/late"
    assert not place.exists()
    with at(bucket, "x") as place:
        assert (place / "x" / "late").read_text() == "2"


def test_what_the_store_refuses_is_said_in_one_line(bucket):
    missing = "s3://nobody-has-this"
    match = rf"{missing}/x, but .*: create it first; what was not uploaded is in /"
    with pytest.raises(ValueError, match=match), at(missing, "x") as place:
        (place / "x" / "a").write_text("a")
    assert (place / "x" / "a").read_text() == "a"
    shutil.rmtree(place)
    with pytest.raises(ValueError, match="create it first"), at(missing, "x") as place:
        storage.lock(place / "x", "training")  # before anything is done for nothing


def test_a_file_of_the_same_size_in_the_same_second_is_another(bucket, tmp_path):
    """Object stores note times of change in whole seconds."""
    one, two = (Mirror(bucket, tmp_path / name) for name in ("one", "two"))
    for mirror in (one, two):
        mirror.local.mkdir()
    for text in "abc":  # a second is too short for all of them
        (one.local / "file").write_text(text)
        one.push(one.local / "file")
        two.pull(two.local / "file")
        assert (two.local / "file").read_text() == text


def test_what_has_settled_is_not_asked_for_again(bucket, tmp_path, monkeypatch):
    one, two = (Mirror(bucket, tmp_path / name) for name in ("one", "two"))
    for mirror in (one, two):
        mirror.local.mkdir()
    (one.local / "file").write_text("a")
    one.sync()
    two.fetch()
    assert not two._there["file"].settled
    assert one._there["file"].settled  # nobody else writes it
    monkeypatch.setattr(whole_file, "SETTLED_S", 0.0)
    two.fetch()
    assert two._there["file"].settled


@pytest.fixture
def traffic(aws, bucket, monkeypatch):
    """The bytes that go to the store, and come from it."""
    with opened(int(aws.rpartition(":")[2])) as count:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{count.port}")
        yield count


def test_what_ranks_write_is_moved_twice_at_most(bucket, traffic):
    """Eight of them and a driver that reads their rows, each twice."""
    written = 0
    with ExitStack() as stack:
        follow = ["parts/*", "events.jsonl"]
        driver = stack.enter_context(at(bucket, "x", follow=follow)) / "x"
        ranks = [stack.enter_context(at(f"{bucket}/x", fetch=())) for _ in range(8)]
        for _ in range(2):
            for number, rank in enumerate(ranks):
                (rank / "parts").mkdir(exist_ok=True)
                (rank / "parts" / f"{number}").write_bytes(os.urandom(100_000))
                written += 100_000
            (ranks[0] / "step").write_bytes(os.urandom(3_000_000))
            with (ranks[0] / "events.jsonl").open("ab") as file:
                file.write(b"0" * 99_999 + b"\n")
            written += 3_100_000
            for folder in (*ranks, driver):
                storage.sync(folder)
    assert traffic.sent < 1.1 * written
    assert traffic.received < written / 2
    assert traffic.sent + traffic.received < 2 * written


@pytest.mark.parametrize("step", [1_000_000, 1 << 20])
def test_a_journal_that_grows_is_not_sent_again(bucket, traffic, tmp_path, step):
    one, two = (Mirror(bucket, tmp_path / name) for name in ("one", "two"))
    line = b"x" * 99 + b"\n"
    for mirror in (one, two):
        mirror.local.mkdir()
    for _ in range(20):
        with (one.local / "journal.jsonl").open("ab") as file:
            file.write(line * (step // len(line)))
        one.sync()
        two.fetch()
    journal = (one.local / "journal.jsonl").read_bytes()
    assert (two.local / "journal.jsonl").read_bytes() == journal
    assert len(journal) > 19_999_900
    assert traffic.sent < 1.25 * len(journal)
    assert traffic.received < 1.25 * len(journal)


@pytest.fixture
def impatient(monkeypatch):
    """Drivers that beat, and die, within seconds."""
    monkeypatch.setattr(lease, "BEAT_S", 1.0)
    monkeypatch.setattr(lease, "EXPIRY_S", 4.0)
    monkeypatch.setattr(lease, "LOOK_S", 0.3)


def test_one_driver_at_a_time_writes_in_a_folder(bucket, impatient):
    with at(bucket, "x") as place:
        storage.lock(place / "x", "comparison")
        (place / "x" / "journal").write_text("mine")
        storage.sync(place / "x")
        match = (
            rf"the comparison in .*/x, but process {os.getpid()} on \S+ is at it: wait"
        )
        with at(bucket, "x") as other:
            with pytest.raises(ValueError, match=match):
                storage.lock(other / "x", "comparison")
            (other / "x" / "journal").write_text("another's")
        with at(bucket, "y") as other:
            storage.lock(other / "y", "comparison")  # another folder is free
    with at(bucket, "x") as place:
        assert (place / "x" / "journal").read_text() == "mine"
        storage.lock(place / "x", "comparison")  # it was released


def test_who_opens_a_folder_has_it_alone(bucket, impatient):
    with (
        RunFolder.open(bucket, "x", "comparison", {"budget": 1}),
        pytest.raises(ValueError, match=r"one driver at a time .* is at it"),
        RunFolder.open(bucket, "x", "comparison", {"budget": 1}),
    ):
        pass
    with RunFolder.open(bucket, "x", "comparison", {"budget": 1}) as folder:
        assert folder.noted("budget") == 1


def test_a_dead_driver_has_a_successor_and_writes_nothing_when_it_returns(
    bucket, impatient, monkeypatch
):
    def paused(self):
        """What a stopped process does."""
        self._over.wait(6.0)
        beat(self)

    beat = lease.Lease._keep_beating
    monkeypatch.setattr(lease.Lease, "_keep_beating", paused)
    monkeypatch.setattr(storage, "SYNC_EVERY_S", 100.0)
    lost = pytest.raises(ValueError, match="another one has taken over")
    with lost, at(bucket, "x") as place:
        storage.lock(place / "x", "training")
        monkeypatch.setattr(lease.Lease, "_keep_beating", beat)
        (place / "x" / "model").write_text("old")
        storage.sync(place / "x")
        with at(bucket, "x") as successor:
            begun = time.monotonic()
            storage.lock(successor / "x", "training")
            assert time.monotonic() - begun > 2.0
            (successor / "x" / "model").write_text("new")
        time.sleep(4.0)
        (place / "x" / "model").write_text("too late")
    assert (place / "x" / "model").read_text() == "too late"
    shutil.rmtree(place)
    with at(bucket, "x") as place:
        assert (place / "x" / "model").read_text() == "new"


def test_what_was_written_last_is_there_when_a_driver_follows(bucket, monkeypatch):
    monkeypatch.setattr(storage, "SYNC_EVERY_S", 100.0)
    first = at(bucket, "x")
    before = first.__enter__() / "x" / "journal"
    storage.lock(before.parent, "comparison")
    before.write_text("a")
    storage.sync(before)
    with at(bucket, "x") as place:
        journal = place / "x" / "journal"
        assert journal.read_text() == "a"
        before.write_text("ab")
        first.__exit__(None, None, None)
        storage.lock(journal.parent, "comparison")
        journal.write_text(journal.read_text() + "c")
    with at(bucket, "x") as place:
        assert (place / "x" / "journal").read_text() == "abc"


def test_who_was_followed_learns_of_it_while_it_computes(bucket, monkeypatch):
    monkeypatch.setattr(storage, "SYNC_EVERY_S", 0.2)
    begun = time.monotonic()
    lost = pytest.raises(ValueError, match=r"taken over .*; what was not uploaded")
    with lost, at(bucket, "x") as place:
        storage.lock(place / "x", "training")
        monkeypatch.setattr(lease.Lease, "is_held", lambda self: False)
        time.sleep(60)
    assert time.monotonic() - begun < 30
    shutil.rmtree(place)


def test_each_file_is_uploaded_only_while_the_folder_is_ours(bucket, tmp_path):
    mirror = Mirror(bucket, tmp_path)
    (tmp_path / "old").mkdir()
    for name in ("a", "old/b"):
        (tmp_path / name).write_text("old")
    mirror.sync()
    (tmp_path / "a").write_text("new")
    (tmp_path / "old/b").write_text("too late")
    answers = iter([True, True, False, False])  # to sync, a, b, and discard
    mirror._lease = SimpleNamespace(is_held=lambda: next(answers))
    with pytest.raises(TakenOverError, match="another one has taken over"):
        mirror.sync()
    with pytest.raises(TakenOverError):
        mirror.discard(tmp_path / "old")
    with at(bucket) as place:
        assert (place / "a").read_text() == "new"
        assert (place / "old/b").read_text() == "old"


SHORT = METHODS["short_term"]


def trial(bucket, method=SHORT):
    study = StudyKey("bowl", method.name, 0)
    run = TrialSpec(study=study, number=0, kind="descent", budget=150.0)
    store = TrialStore(bucket and f"{bucket}/.states")
    return list(trial_runner.reports_of(run, Bowl(), method, store))


def test_a_killed_descent_goes_on_from_its_log(bucket, monkeypatch):
    """Which no file of this machine has."""
    monkeypatch.setattr(evaluation_log, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(evaluation_log, "SAVE_SHARE", 0)
    computed = Computed(monkeypatch)
    undisturbed, needed = trial(None), computed.count
    computed.count, computed.allowed = 0, 20
    with pytest.raises(Killed):
        trial(bucket)
    with at(f"{bucket}/.states") as place:
        assert len(list(place.rglob("*.log"))) == 1
    computed.count, computed.allowed = 0, math.inf
    assert untimed(trial(bucket)) == untimed(undisturbed)
    assert computed.count == needed - 20
    TrialStore(f"{bucket}/.states").drop(StudyKey("bowl", SHORT.name, 0), 0)
    TrialStore(f"{bucket}/.states").clear()
    with at(f"{bucket}/.states") as place:
        assert not list(place.rglob("*"))


def test_a_killed_optimization_goes_on_by_its_name(bucket, monkeypatch):
    monkeypatch.setattr(evaluation_log, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(evaluation_log, "SAVE_SHARE", 0)
    run = partial(optimize, "quadratic", "reverse", budget=200, progress=False)
    computed = Computed(monkeypatch)
    undisturbed, needed = run().frame, computed.count
    computed.count, computed.allowed = 0, 3
    with pytest.raises(Killed):
        run(name="x", storage=bucket)
    computed.count, computed.allowed = 0, math.inf
    found = run(name="x", storage=bucket).frame
    assert computed.count == needed - 3
    pd.testing.assert_frame_equal(
        *(frame.drop(columns="wall_s") for frame in (found, undisturbed))
    )


def test_a_store_that_is_away_costs_a_descent_nothing_but_its_log(bucket):
    assert untimed(trial("s3://nobody-has-this")) == untimed(trial(None))


def test_a_state_reaches_another_machine(bucket):
    """Also where a task's name is none of an address."""
    store, study = TrialStore(bucket), StudyKey("two words, 50 %", "pbt", 0)
    store.save(study, 3, 10, {"w": torch.arange(3.0)})
    (found,) = TrialStore(bucket).load(study, 3, 10, {"w": torch.zeros(3)}).values()
    assert found.tolist() == [0, 1, 2]
    assert store.load(study, 3, 20, {"w": torch.zeros(3)}) is None
    store.drop(study, 3)
    store.clear()
    assert store.load(study, 3, 10, {"w": torch.zeros(3)}) is None


@pytest.mark.ray
def test_a_comparison_on_an_object_store_is_the_one_on_a_disk(
    cluster, bucket, tmp_path
):
    settings = {"budget": 80, "seeds": 1, "name": "x"}
    methods, said = ["random", "short_term"], []
    far = compare(
        *("quadratic", methods), **settings, storage=bucket, progress=said.append
    )
    here = compare("quadratic", methods, **settings, storage=tmp_path, progress=False)
    pd.testing.assert_frame_equal(
        far.drop(columns="wall_s"), here.drop(columns="wall_s")
    )
    assert f"results go to {bucket}/x" in said
    assert said[-1].endswith(f"{bucket}/x/frame.parquet")
    with at(bucket, "x") as place:
        kept = pd.read_parquet(place / "x" / "frame.parquet")
        names = {path.name for path in (place / "x").iterdir()}
        drawn = (place / "x" / "tensorboard").rglob("events.out.tfevents.*")
        assert {events.parent for events in drawn} == {
            place / "x" / "tensorboard/quadratic" / method / "seed-0"
            for method in methods
        }
    with at(f"{bucket}/x/.states") as place:
        assert not list(place.rglob("*"))
    assert names == {path.name for path in (tmp_path / "x").iterdir()} - {".lock"}
    pd.testing.assert_frame_equal(kept, far)
    again = compare("quadratic", methods, **settings, storage=bucket, progress=False)
    pd.testing.assert_frame_equal(again, far)  # it is known that it had finished


@pytest.mark.ray
def test_workers_share_an_object_store(cluster, bucket, tmp_path, capsys):
    """Each has a local folder of its own."""
    settings = {
        "outer_steps": 4,
        "tasks_per_step": 4,
        "val_tasks": 4,
        "test_tasks": 4,
        "test_steps": 1,
        "checkpoint_every": 2,
        "dtype": "float64",
    }
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    flags += ["--workers=2", "--name=x", f"--storage={bucket}"]
    assert main(["train", *flags]) == 0
    said = capsys.readouterr().out
    assert f"results go to {bucket}/x" in said
    config = recipe("maml", "sinusoid", **settings)
    here = train(config, storage=tmp_path, name="x", progress=False)
    with at(bucket, "x") as place:
        found = sorted(path.name for path in (place / "x" / "seed-0").iterdir())
        frame = pd.read_parquet(place / "x" / "frame.parquet")
        assert not (place / "x" / ".ray").exists()
    assert found == ["best.pt", "pictures.npz"] + [
        f"step-{step:08}.pt" for step in (0, 2, 4)
    ]
    test = frame.query("split == 'test'")
    assert test["outer_loss"].tolist() == pytest.approx(
        here.evaluation["outer_loss"].tolist(), rel=1e-9
    )
    drawn = re.findall(r"drawn: (\S+)", said)
    assert drawn
    assert all(path.startswith(f"{bucket}/x/") for path in drawn)
