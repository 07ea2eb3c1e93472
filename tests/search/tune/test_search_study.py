"""Trials that pause and copy each other; numbers against the toy's closed form."""

import math
import random
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from search_toys import Bowl, ListSearcher

from raymeta.outer.report import Report
from raymeta.search.methods.hyperband import HyperBand
from raymeta.search.methods.pbt import Pbt
from raymeta.search.plan import make_plan
from raymeta.search.tune.clipped_loss import ClippedLossSearcher
from raymeta.search.tune.controller import PAUSED
from raymeta.search.tune.isolated_rng import IsolatedGlobalRNG
from raymeta.search.tune.search_study import study_of
from raymeta.search.worker import trial_runner
from raymeta.search.worker.trial_store import TrialStore

#: Small enough for every event of a journal to be a place to be killed at.
POPULATION = Pbt(population=4, intervals=3, quantile=0.5)
PAUSING = [HyperBand(halvings=1), POPULATION]


def search_rows(frame):
    return frame[frame.status != "final"]


def lineage(rows, trial, steps):
    """[(steps, learning rate)] of the training behind a report, by its rows."""
    way = []
    while steps:
        mine = rows[(rows.trial == trial) & (rows.status != "failed")]
        (row,) = mine[mine.inner_steps == steps].itertuples()
        earlier = rows[(rows.trial == row.parent) & (rows.inner_steps < steps)]
        before = int(earlier.inner_steps.max()) if len(earlier) else 0
        way.insert(0, (steps - before, row[rows.columns.get_loc("hp/lr") + 1]))
        trial, steps = row.parent, before
    return way


def test_a_band_halves_every_bracket_and_costs_what_was_trained(bench):
    method = HyperBand()
    task = Bowl(horizon=18)
    assert method.rungs(task) == (2, 6, 18)
    assert method.batch_size(task, runs=100) == 3 + 5 + 9
    # 3 full runs; 5 to a third and 2 of them on; 9 to a ninth, 3 of them on, then 1.
    steps = 3 * 18 + 5 * 6 + 2 * 12 + 9 * 2 + 3 * 4 + 1 * 12
    reports = 3 * 3 + (5 * 2 + 2) + (9 + 3 + 1)

    frame = bench(task, method, budget=steps + reports).run().frame()

    rows = search_rows(frame)
    assert rows.gradient_evals.max() == steps + reports
    reached = rows.groupby("trial").inner_steps.max()
    assert list(reached[:3]) == [18, 18, 18]
    assert Counter(reached[3:8]) == {6: 3, 18: 2}
    assert Counter(reached[8:]) == {2: 6, 6: 2, 18: 1}
    for trials, rung in (range(3, 8), 6), (range(8, 17), 2):
        at = rows[(rows.inner_steps == rung) & rows.trial.isin(trials)]
        on = reached[at.trial].to_numpy() > rung
        assert at.outer_loss[on].max() < at.outer_loss[~on].min()
    assert list(rows.parent) == list(rows.trial)


def test_a_score_of_a_population_is_that_of_the_schedule_in_its_rows(bench):
    frame = bench(Bowl(), POPULATION, budget=12 * 4).run().frame()

    rows = search_rows(frame)
    copies = rows[rows.parent != rows.trial]
    assert set(copies.inner_steps) == {6, 9}  # after the rungs at 3 and at 6
    assert len(copies) == 4  # two of four members, twice
    for row in rows.itertuples():
        way = lineage(rows, row.trial, row.inner_steps)
        error = math.prod((1 - float(np.float32(lr))) ** n for n, lr in way)
        assert row.outer_loss == pytest.approx(error**2, rel=1e-5)
    assert any(len({lr for _, lr in lineage(rows, t, 9)}) > 1 for t in range(4))
    final = frame.iloc[-1]
    assert (final.failure, final.outer_loss) == ("", frame.best_outer_loss.min())


def test_copies_are_of_the_best_and_replace_the_worst(bench):
    rows = search_rows(bench(Bowl(), POPULATION, budget=12 * 4).run().frame())
    for rung, after in (3, 6), (6, 9):
        losses = rows[rows.inner_steps == rung].set_index("trial").outer_loss
        best = set(losses.nsmallest(2).index)
        parents = rows[rows.inner_steps == after].set_index("trial").parent
        assert set(parents) <= best
        assert all(parents[trial] == trial for trial in best)
        assert all(parents[trial] in best for trial in set(losses.index) - best)


@pytest.mark.parametrize("method", PAUSING, ids=lambda m: m.name)
@pytest.mark.parametrize("task", [Bowl(), Bowl(nan_above=0.3, raise_above=0.8)])
def test_killed_anywhere_it_goes_on_as_if_nothing_had_happened(bench, method, task):
    whole = bench(task, method, budget=75).run()
    events = whole.journal.read()
    assert len(events) > 20

    for killed_after in range(len(events)):
        again = bench(task, method, 75, events=events[:killed_after])
        pd.testing.assert_frame_equal(again.run().results(), whole.results())


@pytest.mark.parametrize("method", PAUSING, ids=lambda m: m.name)
@pytest.mark.parametrize("limit", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("budget", [12.0, 40.0, 90.0, 131.0])
def test_failures_and_short_budgets_end_in_time(bench, method, limit, budget):
    task = Bowl(nan_above=limit, raise_above=2 * limit)
    done = bench(task, method, budget=budget).run()
    assert done.studies[0].spent <= budget
    rows = search_rows(done.frame())
    assert set(rows[rows.status == "failed"].groupby("trial").size()) <= {1}


def test_members_that_wait_for_one_that_fails_go_on():
    study = study_of(make_plan(Bowl(), POPULATION, 48, 1).study_specs()[0])
    said = {0: 0.1, 1: 0.2, 2: 0.3, 3: math.nan}
    for loss in said.values():
        run = study.request_trial()
        message = Report(1, 3, 4.0, loss, hparams=run.hparams)
        assert study.record(run.number, [message])

    origins = {}
    for _ in range(3):
        run = study.request_trial()
        origins[run.number] = run.origin
        message = Report(1, 6, 4.0, 0.1, hparams=run.hparams)
        study.record(run.number, [message])
    assert origins == {0: 0, 1: 1, 2: 0}


class Counted(Bowl):
    """Counts the training steps that are really taken."""

    taken: ClassVar[Counter] = Counter()

    def sample(self, seed):
        problem = super().sample(seed)
        step = problem.step

        def counting(*args, **kwargs):
            self.taken["steps"] += 1
            return step(*args, **kwargs)

        object.__setattr__(problem, "step", counting)
        return problem


@pytest.mark.parametrize("method", [HyperBand(), POPULATION], ids=lambda m: m.name)
def test_saved_states_spare_training_and_change_nothing(bench, method, tmp_path):
    states = TrialStore(tmp_path / "states")
    budget, frames, taken = 100.0, [], []
    for where in (None, states):
        trial_runner._problems.clear()
        Counted.taken.clear()
        one = bench(Counted(), method, budget)
        one.coordinator._states = where or TrialStore(None)
        while run := one.coordinator.request_trial():
            one.play(run, where)
        frames.append(one.results())
        taken.append(Counted.taken["steps"])

    pd.testing.assert_frame_equal(*frames)
    rows = search_rows(frames[0])
    charged = rows.gradient_evals.max() - len(rows)
    # counted: a step whose multiplications are; asked: the first and the last one at
    # each option; told: one by which edited code is known; looked: two whether they are
    # equal, one for what is not smooth, one for what its graph keeps
    counted, asked, told, looked, warm_up, final = 1, 4, 1, 4, 1, 9
    assert taken[1] == charged + counted + asked + told + looked + warm_up + final
    assert taken[0] > taken[1]
    assert list((tmp_path / "states").rglob("*.pt")) == []


def test_a_stretch_whose_worker_dies_keeps_what_was_before(bench):
    one = bench(Bowl(), POPULATION, budget=48)
    for _ in range(4):
        one.play(one.coordinator.request_trial())
    before = one.results()
    run = one.coordinator.request_trial()
    assert run.before

    one.coordinator.on_worker_lost(run, "node gone")

    pd.testing.assert_frame_equal(one.results(), before)
    assert one.coordinator.request_trial() == run
    whole = bench(Bowl(), POPULATION, budget=48).run()
    one.studies[0].rerun(run.number)
    pd.testing.assert_frame_equal(one.run().results(), whole.results())


def test_perturbations_stay_in_the_bounds(bench):
    @dataclass(frozen=True, kw_only=True)
    class Narrow(Bowl):
        @property
        def space(self):
            wide = super().space
            lr = wide["lr"]
            return type(wide)(lr=type(lr)(0.5, low=0.45, high=0.55), kind=wide["kind"])

    rows = bench(Narrow(), Pbt(population=8, intervals=9), budget=300).run().frame()
    assert rows["hp/lr"].between(0.45, 0.55).all()
    assert {0.45, 0.55} & set(rows["hp/lr"])  # some were put on the bounds


def test_global_streams_are_left_alone_and_a_cells_are_its_own():
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    outside = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    draws = []
    for _ in range(2):
        rng = IsolatedGlobalRNG(3)
        with rng:
            one = random.random(), np.random.random()  # noqa: NPY002
        with rng:
            two = random.random(), np.random.random()  # noqa: NPY002
        draws.append((one, two))
    assert draws[0] == draws[1]
    assert draws[0][0] != draws[0][1]
    now = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert now == outside


def test_paused_trials_occupy_no_slot(bench):
    one = bench(Bowl(), POPULATION, budget=48)
    one.play(one.coordinator.request_trial())
    (study,) = one.studies
    assert study.live == {}
    assert study._controller.trials[0].status == PAUSED
    assert one.coordinator.request_trial().number == 1


def test_a_capped_searcher_hears_of_no_loss_above_twice_the_first():
    inner = ListSearcher([])
    capped = ClippedLossSearcher(inner)
    for trial, loss in enumerate([-2.0, 5.0, -1e-3, 1e20, -3.0]):
        capped.on_trial_complete(str(trial), {"outer_loss": loss})
    capped.on_trial_complete("5", None, error=True)

    told = [value for *_, value in inner.told]
    assert told == [-2.0, 0.0, -1e-3, 0.0, -3.0, "error"]
