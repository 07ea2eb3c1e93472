"""Trials in flight: how many there are, and who comes first, change nothing.

Unless the user accepts that: then the journal has it.
"""

from itertools import takewhile

import pandas as pd
import pytest
from search_toys import Bowl, Listed, Walk

from raymeta.search.methods.pb2 import Pb2
from raymeta.search.methods.pbt import Pbt
from raymeta.search.methods.pbt_descent import PbtDescent
from raymeta.search.progress import slots_lines


class Batches(Listed):
    """Batches that a scheduler halves without pausing anybody."""

    def batch_size(self, task, runs):
        return 4


TASK = Bowl(nan_above=1.2, raise_above=1.6)
POPULATION = {"population": 4, "intervals": 3, "quantile": 0.5}
METHODS = [
    *("random", "sobol", "grid", "hyperband"),
    *(Pbt(**POPULATION), Pb2(**POPULATION), PbtDescent(**POPULATION)),
    Batches(tuple(1 / (2 + i % 7) for i in range(30)), rung=3, at_once=64),
]


@pytest.fixture
def one(bench):
    """The comparison with one trial in flight."""
    return bench(TASK, METHODS, budget=150).run()


@pytest.mark.parametrize("slots", [4, 64])
def test_frames_do_not_depend_on_slots(bench, one, slots):
    many = bench(TASK, METHODS, budget=150)

    frame = many.run_many(slots).results()

    assert many.coordinator.finished
    assert set(frame.status) == {"running", "complete", "failed", "final"}
    pd.testing.assert_frame_equal(frame, one.results())


def test_nor_on_kills_and_other_slots_later(bench, one):
    events, slots = [], 1
    for seed in range(100):
        killed = bench(TASK, METHODS, 150, events=events)
        if killed.coordinator.finished:
            break
        slots = slots % 9 + 1
        events = killed.run_many(slots, seed, events=30).journal.read()

    assert seed > 5
    pd.testing.assert_frame_equal(killed.results(), one.results())


def test_those_whose_turn_has_not_come_are_reserved_for_and_not_told(bench):
    many = bench(Bowl(), "random", budget=35)
    (study,) = many.studies
    runs = [many.coordinator.request_trial() for _ in range(4)]
    assert runs[3] is None  # a run costs 10

    many.play(runs[1])
    assert (study.spent, study.reports, study.running) == (0, [], {0, 2})
    many.play(runs[0])
    assert (study.spent, [n for n, _ in study.reports]) == (20, [0, 1])


@pytest.mark.parametrize("seed", range(3))
def test_a_frame_has_what_was_reported_in_whatever_order_it_came(bench, one, seed):
    many = bench(TASK, METHODS, budget=150)

    frame = many.run_many(64, seed, events=40).results()

    reports = [e for e in many.journal.read() if e["event"] == "reports"]
    assert len(frame) == sum(len(event["reports"]) for event in reports)
    assert any(study.heard != study.reports for study in many.studies)
    totals = ["gradient_evals", "flops", "best_outer_loss"]  # of those before, too
    rows = one.results().drop(columns=totals).astype(str)
    known = set(rows.itertuples(index=False))
    assert known >= set(frame.drop(columns=totals).astype(str).itertuples(index=False))


def test_a_trial_whose_worker_died_keeps_its_place(bench, one):
    many = bench(TASK, METHODS, budget=150)
    lost = []
    while not many.coordinator.finished:
        runs = [many.coordinator.request_trial() for _ in range(20)]
        for run in filter(None, reversed(runs)):
            if run.number % 3 or run.study in lost:
                many.play(run)
            else:
                lost.append(run.study)
                many.coordinator.on_worker_lost(run, "node gone")

    assert len(lost) == len(METHODS)
    pd.testing.assert_frame_equal(many.results(), one.results())


ORDERED = ["asha", "median", "tpe", "gp", "tpe_descent"]


def test_with_many_at_once_the_journal_has_the_order(bench):
    def play(seed, events=()):
        some = bench(TASK, ORDERED, 150, events=events, at_once=4)
        return some.run_many(64, seed)

    whole = play(0)
    events, frame = whole.journal.read(), whole.results()

    starts = list(takewhile(lambda event: event["event"] == "start", events))
    assert len(starts) == 4 * len(ORDERED)
    pd.testing.assert_frame_equal(
        bench(TASK, ORDERED, 150, events=events, at_once=4).results(), frame
    )
    assert not play(1).results().equals(frame)
    cut = len(events) // 2
    again = play(1, events[:cut])
    assert again.coordinator.finished
    assert again.journal.read()[:cut] == events[:cut]


def test_opening_lines_say_how_many_slots_can_be_used_and_why_not_more(bench):
    methods = ["random", Pbt(**POPULATION), "tpe", Walk()]
    some = bench(Bowl(), methods, 70, seeds=2, at_once=3)

    assert slots_lines(some.studies, 4, 7.25) == ["Ray is up after 7.2 s: 4 at a time"]
    assert slots_lines(some.studies, 64, 7.25) == [
        "Ray is up after 7.2 s: 30 at a time, for the other 34 of 64 slots there are "
        "no trials",
        "trials in flight per study, at most: random 7 (the budget's runs), pbt 4 (one "
        "batch)",
        "  tpe 3 (at_once), walk 1 (a descent)",
    ]
    for study in some.studies[:4]:
        while run := study.request_trial():
            some.play(run)
    assert slots_lines(some.studies, 64, 0.0)[0].startswith(
        "Ray is up after 0.0 s: 15 "
    )
