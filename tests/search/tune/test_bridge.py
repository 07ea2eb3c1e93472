"""Tune's interfaces, driven by hand."""

import pickle
from types import SimpleNamespace

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayTaskError
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import NoopStopper
from search_toys import Bowl, Listed

from raymeta.runtime.interrupt import Interrupt
from raymeta.search.tune.bridge import (
    STARTING_S,
    UP_S,
    BridgeScheduler,
    BridgeSearcher,
    Pulse,
)
from raymeta.search.worker import trial_runner


def trial_of(config, status=Trial.PENDING):
    return SimpleNamespace(config=config, status=status, trial_id="x")


def result_of(message, last=False):
    return {"reports": [message], "last": last, "trial_id": "x"}


def test_a_trial_from_suggestion_to_stop(bench):
    one = bench(Bowl(), Listed((0.5,), rung=3), budget=12)
    searcher, scheduler = (
        BridgeSearcher(one.coordinator, Interrupt()),
        BridgeScheduler(one.coordinator, Interrupt(), NoopStopper()),
    )

    trial = trial_of(searcher.suggest("a"))
    plain = {name: trial.config[name] for name in ("task", "method", "seed", "trial")}
    assert list(plain.values()) == ["bowl", "listed", 0, 0]
    assert trial.config["hp/lr"] == 0.5
    assert searcher.suggest("b") is None  # the study runs one at a time
    run = trial.config["run"]
    study = one.studies[0].spec
    rung, end = trial_runner.reports_of(run, study.task, study.method)
    decisions = [
        scheduler.on_trial_result(None, trial, result_of(message))
        for message in (rung, end)
    ]

    assert decisions == [TrialScheduler.CONTINUE, TrialScheduler.STOP]
    searcher.on_trial_complete("a", {})
    final = trial_of(searcher.suggest("b"))
    assert final.config["run"].kind == "final"
    (message,) = trial_runner.reports_of(final.config["run"], study.task, study.method)
    decision = scheduler.on_trial_result(None, final, result_of(message))
    assert decision == TrialScheduler.STOP
    assert searcher.suggest("c") == Searcher.FINISHED


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ActorDiedError(), "The actor died unexpectedly before finishing this task."),
        (RayTaskError("f", "trace", ImportError("x\ny")), "ImportError: x y"),
    ],
)
def test_a_dead_worker_means_that_the_trial_is_suggested_again(
    bench, tmp_path, error, reason
):
    one = bench(Bowl(), Listed((0.5, 0.4)), budget=20)
    one.play(one.coordinator.request_trial())
    searcher, scheduler = (
        BridgeSearcher(one.coordinator, Interrupt()),
        BridgeScheduler(one.coordinator, Interrupt(), NoopStopper()),
    )
    (tmp_path / "error.pkl").write_bytes(cloudpickle.dumps(error))
    suggestions = []
    for _ in range(3):
        trial = trial_of(searcher.suggest("a"))
        suggestions.append(trial.config)
        trial.pickled_error_file = tmp_path / "error.pkl"
        scheduler.on_trial_error(None, trial)
        searcher.on_trial_complete("a", error=True)

    assert suggestions[0] == suggestions[1] == suggestions[2]
    assert one.frame().failure[1] == f"its worker died 3 times: {reason}"
    assert searcher.suggest("b")["run"].kind == "final"


def test_the_last_that_waits_gets_a_free_worker_until_the_first_is_late(
    bench, monkeypatch
):
    """So a worker that is being started for the first is not given up."""
    clock = [100.0]
    monkeypatch.setattr("raymeta.search.tune.bridge.time.monotonic", lambda: clock[0])
    coordinator = bench(Bowl(), Listed((0.5,))).coordinator
    scheduler = BridgeScheduler(coordinator, Interrupt(), NoopStopper())
    trials = [trial_of({}) for _ in range(3)]
    for trial in trials:
        scheduler.on_trial_add(None, trial)

    assert scheduler.choose_trial_to_run(None) is trials[2]
    assert scheduler.choose_trial_to_run(None) is trials[2]
    trials[2].status = Trial.RUNNING
    assert scheduler.choose_trial_to_run(None) is trials[1]
    clock[0] += UP_S + 1
    assert scheduler.choose_trial_to_run(None) is trials[0]
    trials[0].status = Trial.RUNNING
    trials[1].status = Trial.TERMINATED
    assert scheduler.choose_trial_to_run(None) is None


def test_tune_may_pickle_its_parts(bench):
    coordinator = bench(Bowl(), Listed((0.5,))).coordinator
    interrupt = Interrupt()
    parts = [
        BridgeSearcher(coordinator, interrupt),
        BridgeScheduler(coordinator, interrupt, NoopStopper()),
    ]
    parts += [Pulse(interrupt, coordinator.progress, True, NoopStopper())]
    for part in parts:
        assert len(pickle.dumps(part)) < 200


def test_at_ctrl_c_workers_are_killed_before_all_is_stopped(monkeypatch, bench):
    interrupt, beats, killed = Interrupt(), [], []
    monkeypatch.setattr("ray.kill", killed.append)
    clock = [100.0]
    monkeypatch.setattr("raymeta.search.tune.bridge.time.monotonic", lambda: clock[0])
    pulse, trials = Pulse(interrupt, lambda: beats.append(1), True, NoopStopper()), []
    for actor in ("a", None):
        trials.append(trial_of({}))
        trials[-1].temporary_state = SimpleNamespace(ray_actor=actor)
        trials[-1].is_finished = lambda: False

    pulse.on_step_end(1, trials)
    assert not killed
    interrupt.requested = True
    pulse.on_step_end(2, trials)
    assert (killed, pulse.stop_all()) == (["a"], False)
    trials[0].temporary_state.ray_actor = None
    pulse.on_step_end(2, trials)
    assert not pulse.stop_all(), "the second worker may be starting"
    clock[0] += STARTING_S + 1  # no node has room for it
    pulse.on_step_end(3, trials)
    assert (killed, pulse.stop_all(), beats) == (["a"], True, [1, 1, 1, 1])

    with pytest.raises(KeyboardInterrupt):  # a Ray of its own ends with it
        Pulse(interrupt, lambda: None, False, NoopStopper()).on_step_end(4, trials)
    coordinator = bench(Bowl(), Listed((0.5,))).coordinator
    assert BridgeSearcher(coordinator, interrupt).suggest("a") == Searcher.FINISHED
    # That its worker died is not recorded: the trial will run again.
    BridgeScheduler(coordinator, interrupt, NoopStopper()).on_trial_error(
        None, trials[0]
    )
