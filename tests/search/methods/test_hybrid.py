"""Searches that a descent goes on from; numbers against the toy's closed form."""

import math
from dataclasses import dataclass

import pandas as pd
import pytest
from search_toys import Bowl

from raymeta.outer import gaussian_process, surrogate
from raymeta.outer.report import Report
from raymeta.search.methods.pbt_descent import PbtDescent
from raymeta.search.methods.tpe_descent import TpeDescent
from raymeta.search.plan import make_plan
from raymeta.space import Choice, Space
from raymeta.tasks import DigitsChoices

POPULATION = PbtDescent(population=4, intervals=3, quantile=0.5)
HYBRIDS = [TpeDescent(), POPULATION]


def named(method):
    return method.name


def search_rows(frame):
    return frame[frame.status != "final"]


@pytest.fixture
def hasty(monkeypatch):
    """Descents that think of each step as they always do, but not for long."""
    monkeypatch.setattr(gaussian_process, "STEPS", 2)
    monkeypatch.setattr(surrogate, "CLIMBING", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("method", HYBRIDS, ids=named)
@pytest.mark.parametrize("task", [Bowl(), Bowl(nan_above=0.3, raise_above=1.0)])
def test_killed_anywhere_it_goes_on_as_if_nothing_had_happened(bench, method, task):
    budget = 150
    whole = bench(task, method, budget=budget).run()
    events = whole.journal.read()
    assert len(events) > 10

    for killed_after in range(len(events)):
        again = bench(task, method, budget, events=events[:killed_after])
        pd.testing.assert_frame_equal(again.run().results(), whole.results())


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("method", HYBRIDS, ids=named)
@pytest.mark.parametrize("limit", [0.05, 0.2, 0.5, math.inf])
@pytest.mark.parametrize("budget", [45.0, 100.0, 131.0])
def test_budgets_hold_whatever_fails(bench, method, limit, budget):
    task = Bowl(nan_above=limit, raise_above=max(2 * limit, 0.15))
    done = bench(task, method, budget=budget).run()
    assert done.studies[0].spent <= budget
    rows = search_rows(done.frame())
    assert set(rows[rows.status == "failed"].groupby("trial").size()) <= {1}


@pytest.mark.parametrize("method", HYBRIDS, ids=named)
def test_the_final_run_finds_the_recorded_value_again(bench, method):
    frame = bench(Bowl(), method, budget=150).run().frame()
    final = frame.iloc[-1]
    assert (final.status, final.failure) == ("final", "")
    assert final.outer_loss == frame.best_outer_loss.min()
    assert final.test_loss == pytest.approx(math.sqrt(final.outer_loss), rel=1e-6)
    assert set(frame.family) == {"hybrid"}


@pytest.mark.parametrize("method", HYBRIDS, ids=named)
def test_the_first_run_is_a_plain_one_at_the_start(bench, method):
    task = Bowl()
    first = bench(task, method, budget=150).run().frame().iloc[0]
    assert (first.trial, first.status) == (0, "complete")
    assert first["hp/lr"] == 0.1
    assert first.outer_loss == pytest.approx(task.outer(0.1, 0), rel=1e-6)
    assert first.gradient_evals == 9 + 1


def played(bench, method, budget=150, seeds=1):
    """The trials that are asked for, what the search had spent, and the frame."""
    one, runs = bench(Bowl(), method, budget=budget, seeds=seeds), []
    while run := one.coordinator.request_trial():
        runs.append((run, one.studies[0].spent, one.studies[0].best))
        one.play(run)
    return runs, one.frame()


def test_half_of_the_budget_is_the_search_itself(bench):
    """With the same seed it is the same search, to the last bit."""
    runs, frame = played(bench, TpeDescent())
    alone = search_rows(bench(Bowl(), "tpe", budget=150).run().frame())
    search = [run.number for run, _, _ in runs if run.kind == "search"]
    assert search == list(range(7))
    columns = ["trial", "outer_loss", "hp/lr", "hp/kind"]
    pd.testing.assert_frame_equal(
        frame[frame.trial < 7][columns], alone[alone.trial < 7][columns]
    )


@pytest.mark.parametrize("method", HYBRIDS, ids=named)
def test_the_other_half_goes_on_from_all_that_was_trained_at_constants(bench, method):
    runs, frame = played(bench, method)
    (descent,) = [entry for entry in runs if entry[0].kind == "descent"]
    run, spent, best = descent
    assert run.budget == 150 - spent >= 60
    assert run.recorded == best[0]
    rows = search_rows(frame)
    before = rows[(rows.trial < run.number) & (rows.status == "complete")]
    for point, value in run.known:
        assert value == pytest.approx(Bowl().outer(point["lr"], 0), rel=1e-5)
        assert value in set(before.outer_loss)
    own = rows[rows.trial == run.number]
    assert own.outer_loss.min() < before.outer_loss.min()
    assert 150 - 10 < rows.gradient_evals.max() <= 150
    assert own.inner_steps.min() < 9 == own.inner_steps.max()  # within runs, in the end


def test_workers_that_die_end_its_descent_where_it_comes_no_further(bench):
    one = bench(Bowl(), TpeDescent(), budget=150)
    (study,) = one.studies
    while (run := one.coordinator.request_trial()).kind != "descent":
        one.play(run)
    for spent in (1.0, 2.0, 3.0, 4.0, 4.0):
        study.record(run.number, [Report(1, 9, spent, 0.5, True, run.hparams)])
        assert study.on_worker_lost(run.number, "node gone") is None
        assert study.request_trial() == run
    study.record(run.number, [Report(1, 9, 4.0, 0.5, True, run.hparams)])
    end = study.on_worker_lost(run.number, "node gone")
    assert end.failure == "its worker died 3 times: node gone"


def test_where_the_best_of_a_population_ended_is_trained_at_as_a_constant(bench):
    """Where λ changed along it: then the descent knows E there, too."""
    seen = 0
    for seed in (0, 1, 2):
        runs, frame = played(bench, POPULATION, seeds=[seed])
        known = {p["lr"]: e for run, _, _ in runs for p, e in run.known}
        for run, _, best in runs[1:]:
            if run.kind == "final" or not run.constant:
                continue
            seen += 1
            lr = run.hparams["lr"]
            assert lr == best[1]["lr"]
            own = frame[(frame.trial == run.number) & (frame.status == "complete")]
            exact = Bowl().outer(lr, seed)
            assert own.outer_loss.iloc[0] == pytest.approx(exact, rel=1e-5)
            assert known[lr] == own.outer_loss.iloc[0]
    assert seen


def test_what_leaves_no_run_along_which_lambda_changes_is_all_for_whole_ones(bench):
    """Such a run costs 37 of the 35 that are left; plain ones 10."""
    runs, frame = played(bench, TpeDescent(), budget=70)
    own = frame[frame.trial == runs[-1][0].number]
    assert runs[-1][0].kind == "descent" or runs[-2][0].kind == "descent"
    rows = search_rows(frame)
    assert 70 - 10 < rows.gradient_evals.max() <= 70
    assert set(own.inner_steps) == {9}


def test_what_leaves_nothing_for_a_descent_is_a_search(bench):
    runs, _ = played(bench, TpeDescent(), budget=11)
    assert [run.kind for run, _, _ in runs] == ["search", "final"]


@dataclass(frozen=True, kw_only=True)
class Discrete(Bowl):
    @property
    def space(self):
        return Space(kind=Choice(["plain", None]))


@pytest.mark.parametrize("method", HYBRIDS, ids=named)
def test_a_space_of_choices_alone_is_refused(method):
    with pytest.raises(ValueError, match="floating-point"):
        make_plan(Discrete(), method, 150, 1).study_specs()


@pytest.mark.parametrize("method", HYBRIDS, ids=named)
def test_trials_train_the_networks_that_their_choices_give(bench, method):
    task = DigitsChoices(horizon=9)
    frame = bench(task, method, budget=500).run().frame()
    rows = search_rows(frame)
    options = ["hp/width", "hp/activation", "hp/optimizer"]
    assert all(rows[name].nunique() > 1 for name in options)
    assert not (rows.status == "failed").any()
    assert frame.iloc[-1].failure == ""
