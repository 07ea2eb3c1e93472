"""Descents that go on from their logs; every method's: tests/conformance."""

import itertools
import shutil
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from search_toys import Bowl

from raymeta.results.tensors import load_tensors, save_tensors
from raymeta.search.frame import to_frame
from raymeta.search.methods import METHODS
from raymeta.search.methods.gradient import HypergradientDescent
from raymeta.search.spec import StudyKey, TrialSpec
from raymeta.search.worker import evaluation_log, trial_runner
from raymeta.search.worker.evaluation_log import EvaluationLog, LogRecord
from raymeta.search.worker.replay import ReplayMismatch
from raymeta.search.worker.trial_store import TrialStore
from raymeta.testing.kill import Computed, Killed, untimed

TASK, BUDGET = Bowl(), 400.0
SHORT, LONG = METHODS["short_term"], METHODS["long_term"]


@pytest.fixture
def computed(monkeypatch):
    return Computed(monkeypatch)


@pytest.fixture
def eager(monkeypatch):
    """Logs that are saved before each evaluation."""
    monkeypatch.setattr(evaluation_log, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(evaluation_log, "SAVE_SHARE", 0)


def attempt(folder=None, method=SHORT, task=TASK, budget=BUDGET):
    """All that a trial says, with what attempts before it have left in a folder."""
    study = StudyKey(task.name, method.name, 0)
    run = TrialSpec(study=study, number=0, kind="descent", budget=budget)
    return list(trial_runner.reports_of(run, task, method, TrialStore(folder)))


def killed(folder, computed, allowed, **trial):
    """Kill an attempt after so many evaluations; returns those files that count."""
    before, computed.allowed = computed.count, computed.count + allowed
    with pytest.raises(Killed):
        attempt(folder, **trial)
    assert computed.count == before + allowed
    computed.count, computed.allowed = 0, float("inf")
    (snapshot,) = folder.rglob("snapshot.pt")
    return snapshot, [
        snapshot.parent / name for name, _ in load_tensors(snapshot)["segments"]
    ]


@pytest.mark.parametrize("method", [SHORT, LONG, METHODS["restarts"]], ids=str)
def test_what_was_not_saved_is_computed_again(method, computed, tmp_path, monkeypatch):
    turn = itertools.count()
    monkeypatch.setattr(
        EvaluationLog, "due", property(lambda self: self._file and next(turn) % 3 == 2)
    )
    undisturbed = attempt(method=method)
    needed, computed.count, attempts = computed.count, 0, 0
    while True:
        computed.allowed = computed.count + 5
        attempts += 1
        try:
            messages = attempt(tmp_path, method)
            break
        except Killed:
            assert attempts < needed
    assert attempts > 3
    assert needed < computed.count <= needed + 3 * attempts
    assert untimed(messages) == untimed(undisturbed)


def truncated(snapshot, segments):
    segments[0].write_bytes(segments[0].read_bytes()[:-1])


def flipped(snapshot, segments):
    content = bytearray(segments[0].read_bytes())
    content[len(content) // 2] ^= 1
    segments[0].write_bytes(content)


def missing(snapshot, segments):
    segments[0].unlink()


def torn(snapshot, segments):
    snapshot.write_bytes(snapshot.read_bytes()[: snapshot.stat().st_size // 2])


def empty(snapshot, segments):
    snapshot.write_bytes(b"")


def of_another_torch(snapshot, segments):
    save_tensors(snapshot, {**load_tensors(snapshot), "signature": "of another torch"})


@pytest.mark.parametrize(
    "damage", [truncated, flipped, missing, torn, empty, of_another_torch]
)
def test_what_cannot_be_relied_on_is_computed_again(damage, eager, computed, tmp_path):
    undisturbed = attempt()
    needed, computed.count = computed.count, 0
    damage(*killed(tmp_path, computed, 20))
    assert untimed(attempt(tmp_path)) == untimed(undisturbed)
    assert computed.count == needed


def test_what_was_added_after_it_was_saved_last_does_not_count(
    eager, computed, tmp_path
):
    """Half an evaluation, as a killed process may leave it."""
    undisturbed = attempt()
    needed, computed.count = computed.count, 0
    _, (segment,) = killed(tmp_path, computed, 20)
    with segment.open("ab") as file:
        file.write(b"half")
    assert untimed(attempt(tmp_path)) == untimed(undisturbed)
    assert computed.count == needed - 20


OTHERS = {
    "another path": {
        "method": HypergradientDescent("short_term", "short_term", hyper_lr=0.01)
    },
    "another estimator": {"method": HypergradientDescent("short_term", "reverse")},
    "less": {"budget": 40.0},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_another_descent_has_evaluated_is_dropped(
    other, eager, computed, tmp_path, monkeypatch
):
    """Where the signature is the same: then what is asked for differs."""
    monkeypatch.setattr(trial_runner, "signature_of", lambda *_: "the same")
    undisturbed = attempt(**other)
    killed(tmp_path, computed, 60)
    with pytest.raises(ReplayMismatch, match=r"(than its log holds|its log has not)"):
        attempt(tmp_path, **other)
    assert untimed(attempt(tmp_path, **other)) == untimed(undisturbed)


def test_a_log_that_vanishes_while_it_is_read_is_dropped(
    eager, computed, tmp_path, monkeypatch
):
    undisturbed = attempt()
    killed(tmp_path, computed, 20)

    def play(self):
        shutil.rmtree(tmp_path / "bowl")
        yield from original(self)

    original = EvaluationLog.records
    with monkeypatch.context() as patch:
        patch.setattr(EvaluationLog, "records", play)
        with pytest.raises(ReplayMismatch, match="cannot be read any more"):
            attempt(tmp_path)
    assert untimed(attempt(tmp_path)) == untimed(undisturbed)


def test_the_budget_is_part_of_the_signature(eager, computed, tmp_path):
    killed(tmp_path, computed, 20)
    less = attempt(budget=40.0)
    needed, computed.count = computed.count, 0
    assert untimed(attempt(tmp_path, budget=40.0)) == untimed(less)
    assert computed.count == needed


def test_a_foreign_log_costs_a_trial_its_attempt(
    bench, eager, computed, tmp_path, monkeypatch
):
    """The exception reaches the driver as the death of a worker does."""
    monkeypatch.setattr(trial_runner, "signature_of", lambda *_: "the same")
    undisturbed = bench(TASK, SHORT, BUDGET).run().frame()
    states = TrialStore(tmp_path / "states")
    killed(tmp_path / "states", computed, 60, method=OTHERS["another path"]["method"])
    coordinator = bench(TASK, SHORT, BUDGET).coordinator
    coordinator._states = states
    run = coordinator.request_trial()
    with pytest.raises(ReplayMismatch):  # noqa: PT012
        for message in trial_runner.reports_of(run, TASK, SHORT, states):
            coordinator.record(run, [message], last=False)
    coordinator.on_worker_lost(run, "Foreign")
    run = coordinator.request_trial()
    for message in trial_runner.reports_of(run, TASK, SHORT, states):
        coordinator.record(run, [message], last=False)
    assert list(tmp_path.rglob("*.log"))
    coordinator.record(run, [], last=True)
    assert coordinator.finished
    assert not list(tmp_path.rglob("*.log"))  # nobody needs it any more
    pd.testing.assert_frame_equal(
        to_frame(coordinator.studies.values()).drop(columns="wall_s"),
        undisturbed.drop(columns="wall_s"),
    )


def test_seconds_before_the_kill_count_and_those_of_the_log_do_not(
    eager, computed, tmp_path, monkeypatch
):
    """Where an evaluation takes a second, and nothing else any time."""
    clock = SimpleNamespace(perf_counter=lambda: float(computed.count))
    monkeypatch.setattr("raymeta.search.worker.stopwatch.time", clock)
    undisturbed = [message.wall_s for message in attempt()]
    assert undisturbed[19:21] == [20.0, 21.0]
    computed.count = 0
    killed(tmp_path, computed, 20)
    assert [message.wall_s for message in attempt(tmp_path)] == undisturbed


def test_a_disk_that_refuses_costs_nothing_but_the_log(eager, tmp_path):
    (tmp_path / "bowl").write_text("where the folder should be")
    assert untimed(attempt(tmp_path)) == untimed(attempt())


def test_a_disk_that_is_full_later_keeps_what_it_has(
    eager, computed, tmp_path, monkeypatch
):
    undisturbed = attempt()
    needed, computed.count = computed.count, 0
    save = torch.save
    saves = itertools.count()

    def full(*args):
        if next(saves) >= 10:
            raise RuntimeError("PytorchStreamWriter failed writing file")
        save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        killed(tmp_path, computed, 20)
    assert untimed(attempt(tmp_path)) == untimed(undisturbed)
    assert computed.count == needed - 10


def test_a_log_takes_room_on_disk_alone(tmp_path):
    """2,000 gradients of 500 hyperparameters, saved ten times: 8 MB."""
    one, gradient = EvaluationLog(tmp_path, "x"), np.ones(500)
    tracemalloc.start()
    for i in range(2000):
        one.write(LogRecord(i, 0.0, 0, (1.0,), gradient=gradient))
        if i % 200 == 199:
            one.save()
    one.close()
    again = EvaluationLog(tmp_path, "x")
    assert sum(1 for _ in again.records()) == again.snapshot.length == 2000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 8e6
    assert peak < 2 * evaluation_log.BUFFER_BYTES


def test_numbers_are_kept_to_the_last_bit(tmp_path):
    gradient = np.array([0.1, -0.0, np.inf, np.nan, 5e-324])
    written = [
        LogRecord(2**32 - 1, 0.1, 7, (1 / 3,), 2.5, 1e-9, gradient),
        LogRecord(0, 1e9, 2**40, (np.nan, np.inf, -0.0)),
        LogRecord(1, 0.0, 0, ()),
    ]
    one = EvaluationLog(tmp_path, "x")
    for evaluated in written:
        one.write(evaluated)
    one.save()
    one.write(written[0])
    found = list(EvaluationLog(tmp_path, "x").records())
    assert [e.pack() for e in found] == [e.pack() for e in written]
    assert not list(EvaluationLog(tmp_path, "y").records())
    shutil.rmtree(tmp_path)
    one.write(written[0])
    one.save()  # its folder was dropped meanwhile
    assert not tmp_path.exists()
