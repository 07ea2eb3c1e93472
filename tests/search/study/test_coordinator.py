"""Fairness, and that a killed comparison continues as if nothing had happened."""

import math

import numpy as np
import pandas as pd
import pytest
from search_toys import Bowl, Listed, Walk

from raymeta.search.study.study import Study
from raymeta.search.worker import trial_runner

METHODS = ("random", "asha", "tpe", Walk((0.1, 0.9, 0.5)))
TASK = Bowl(nan_above=1.2, raise_above=1.6)


def test_the_cell_furthest_behind_comes_first(bench):
    both = bench(Bowl(), (Listed((0.1,) * 9), Listed((0.2,) * 9, name="b")), budget=40)

    order = []
    for _ in range(8):
        run = both.coordinator.request_trial()
        order.append(run.study.method)
        both.play(run)

    assert order == ["listed", "b"] * 4


def test_a_cell_with_nothing_in_flight_comes_before_one_with_a_trial(bench):
    method = Listed((0.1,) * 9, at_once=2)
    both = bench(Bowl(), method, budget=90, seeds=2)

    seeds = [both.coordinator.request_trial().study.seed for _ in range(4)]

    assert seeds == [0, 1, 0, 1]
    assert both.coordinator.request_trial() is None


def test_the_order_of_trials_of_different_cells_does_not_matter(bench):
    forth = bench(TASK, METHODS, budget=60, seeds=2).run()
    back = bench(TASK, METHODS, budget=60, seeds=2)
    for study in reversed(back.studies):
        while run := study.request_trial():
            back.play(run)

    pd.testing.assert_frame_equal(forth.results(), back.results())


def test_seeds_are_paired_and_differ(bench):
    frame = bench(Bowl(), ("random", "asha"), budget=40, seeds=2).run().frame()

    first = frame[(frame.trial == 1) & (frame.status != "final")]
    rates = first.groupby(["seed", "method"])["hp/lr"].first().unstack()
    assert list(rates["random"]) == list(rates["asha"])
    assert rates["random"][0] != rates["random"][1]


def test_replay_of_any_part_of_the_journal_continues_like_the_undisturbed_run(bench):
    whole = bench(TASK, METHODS, budget=45).run()
    events = whole.journal.read()
    assert len(events) > 40

    for killed_after in range(len(events)):
        again = bench(TASK, METHODS, 45, events=events[:killed_after])
        pd.testing.assert_frame_equal(again.run().results(), whole.results())


def test_a_run_killed_again_and_again_still_continues(bench):
    whole = bench(TASK, METHODS, budget=60, seeds=2).run()
    events = []
    for _ in range(100):
        killed = bench(TASK, METHODS, 60, 2, events=events)
        runs = [
            killed.coordinator.request_trial() for _ in range(3)
        ]  # two are cut in flight
        if runs[0] is None:
            break
        killed.play(runs[0])
        events = killed.journal.read()

    pd.testing.assert_frame_equal(killed.results(), whole.results())


def test_what_was_in_flight_leaves_no_rows_after_a_replay(bench):
    method = Listed((0.5, 0.4), rung=3)
    cut = bench(Bowl(), method, budget=30)
    run = cut.coordinator.request_trial()
    study = cut.studies[0]
    first = next(trial_runner.reports_of(run, study.spec.task, method))
    assert cut.coordinator.record(run, [first], last=False) is False
    assert len(cut.frame()) == 1  # what an interrupted run leaves

    again = bench(Bowl(), method, 30, events=cut.journal.read())

    assert len(again.frame()) == 0
    assert again.studies[0].spent == 0
    assert again.coordinator.request_trial() == run


def test_a_finished_journal_asks_for_nothing(bench):
    whole = bench(TASK, METHODS, budget=40).run()

    again = bench(TASK, METHODS, 40, events=whole.journal.read())

    assert again.coordinator.finished
    assert again.coordinator.request_trial() is None
    assert {standing.share for standing in again.coordinator.progress()} == {1.0}


def test_a_journal_of_another_search_is_refused(bench):
    whole = bench(Bowl(), Listed((0.1, 0.2)), budget=20).run()

    with pytest.raises(ValueError, match=r"bowl/listed/0 cannot be continued.*another"):
        bench(Bowl(), Listed((0.1, 0.3)), 20, events=whole.journal.read())


def test_standings_count_what_happens(bench):
    one = bench(Bowl(raise_above=0.6), Listed((0.5, 0.7, 0.4)), budget=40)
    one.play(one.coordinator.request_trial())
    one.play(one.coordinator.request_trial())
    one.coordinator.request_trial()

    (standing,) = one.coordinator.progress()

    best = pytest.approx(Bowl().outer(0.5, 0))
    assert standing[1:] == (0.5, best, 1, 1, "ValueError: boom, it went")


def test_the_first_error_is_known_at_once_whosever_turn_it_is(bench):
    some = bench(Bowl(raise_above=0.1), Listed((0.05, 0.7), at_once=2), budget=20)
    runs = [some.coordinator.request_trial() for _ in range(2)]
    assert some.coordinator.first_error == ""
    some.play(runs[1])
    first = "bowl/listed/0, trial 1: ValueError: boom, it went"
    assert some.coordinator.first_error == first


def test_divergence_is_no_error(bench):
    one = bench(Bowl(nan_above=0.6), Listed((0.7,)), budget=10).run()
    assert one.coordinator.first_error == ""
    (standing,) = one.coordinator.progress()
    assert (standing.failed, standing.error) == (1, "")


def test_finished_cells_are_not_asked_again(bench, monkeypatch):
    whole = bench(Bowl(), Listed((0.1, 0.2)), budget=20, seeds=40)
    asked = []
    original = Study.request_trial

    def ask(study):
        asked.append(study.spec.key)
        return original(study)

    monkeypatch.setattr(Study, "request_trial", ask)
    whole.run()

    assert len(asked) == 40 * 3  # two trials and the look at the test set
    assert whole.coordinator.request_trial() is None
    assert len(asked) == 40 * 3


def test_a_replayed_ledger_asks_only_cells_that_are_left(bench, monkeypatch):
    first = bench(Bowl(), Listed((0.1, 0.2)), budget=20, seeds=8).run()
    events = first.journal.read()
    again = bench(Bowl(), Listed((0.1, 0.2)), 20, 8, events=events[:-2])
    asked = []
    original = Study.request_trial
    monkeypatch.setattr(
        Study, "request_trial", lambda c: asked.append(c.spec.key.seed) or original(c)
    )

    again.run()

    assert set(asked) == {event["study"][2] for event in events[-2:]}
    pd.testing.assert_frame_equal(first.results(), again.results())


def test_the_work_for_a_frame_grows_with_its_rows(bench, monkeypatch):
    """A row adds one trial to the sums, not all of the study's trials."""
    both = bench(Bowl(), Listed(tuple(np.linspace(0.1, 0.9, 60))), budget=600).run()
    summed = []
    original = math.fsum

    def fsum(values):
        values = list(values)
        summed.append(len(values))
        return original(values)

    monkeypatch.setattr(math, "fsum", fsum)
    frame = both.frame()

    assert len(frame) == 61
    assert max(summed) <= 8
    assert len(summed) == 2 * len(frame)


@pytest.mark.parametrize(
    ("reason", "attempts"),
    [("ModuleNotFoundError: No module named 'mine'", 1), ("it was killed", 3)],
)
def test_workers_that_cannot_run_anything_end_the_comparison(bench, reason, attempts):
    """At once where another attempt would end like the first."""
    lost = bench(Bowl(), "random", budget=40)
    for _ in range(attempts - 1):
        lost.coordinator.on_worker_lost(lost.coordinator.request_trial(), reason)

    with pytest.raises(ValueError, match="workers must be able to run") as error:
        lost.coordinator.on_worker_lost(lost.coordinator.request_trial(), reason)

    assert f"({reason}): for tasks and methods make their modules" in str(error.value)
    assert "pip install -e ." in str(error.value)
    assert "PYTHONPATH" in str(error.value)
    assert "\n" not in str(error.value)
