"""Searches whose trials descend; numbers against the toy's closed form."""

import math
from dataclasses import dataclass

import pandas as pd
import pytest
from search_toys import Bowl

from raymeta.outer.steps.adam import HYPER_LR
from raymeta.search.methods.pbt_descent import PbtDescent
from raymeta.search.methods.tpe_descent import TpeDescent
from raymeta.search.plan import make_plan
from raymeta.search.worker.trial_store import TrialStore
from raymeta.space import Choice, Space
from raymeta.tasks import DigitsChoices

POPULATION = PbtDescent(population=4, intervals=3, quantile=0.5)
HYBRIDS = [TpeDescent(), POPULATION]


def named(method):
    return method.name


def search_rows(frame):
    return frame[frame.status != "final"]


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
def test_the_first_run_from_the_start_beats_training_at_the_start(bench, method):
    task = Bowl()
    rows = search_rows(bench(task, method, budget=150).run().frame())
    first = rows[(rows.trial == 1) & (rows.parent == 1)]
    assert len(first)
    for row in first[first.inner_steps > 1].itertuples():  # a step after the first
        assert row.outer_loss < task.outer(0.1, 0, row.inner_steps) * 0.9


def test_saved_states_spare_training_and_change_nothing(bench, tmp_path):
    states = TrialStore(tmp_path / "states")
    frames = []
    for where in (None, states):
        one = bench(Bowl(), POPULATION, 150.0)
        while run := one.coordinator.request_trial():
            one.play(run, where)
        frames.append(one.results())
    pd.testing.assert_frame_equal(*frames)
    study = one.studies[0].spec.key
    like = POPULATION.begin(Bowl(), Bowl().sample(0), {"lr": 0.1, "kind": "plain"})
    saved = states.load(study, 1, 6, like)
    assert (saved.rollout.step, saved.adam.taken) == (6, 6)
    assert (frames[1].parent != frames[1].trial).any()


def test_copies_take_over_lambda_and_never_jump(bench):
    """λ moves by hyper-steps alone: by a bounded length per training step."""
    rows = search_rows(bench(Bowl(), POPULATION, budget=150).run().frame())
    copies = rows[(rows.parent != rows.trial) & (rows.status != "failed")]
    assert len(copies) >= 2
    jumps = 0
    for row in copies.itertuples():
        lr = row[rows.columns.get_loc("hp/lr") + 1]
        at = rows[rows.inner_steps == row.inner_steps - 3].set_index("trial")["hp/lr"]
        reach = 3 * HYPER_LR * 1.2**2 * 1.5  # momentum: Adam's steps exceed η
        assert abs(math.log(lr / at[row.parent])) <= reach
        jumps += abs(math.log(lr / at[row.trial])) > reach
    assert jumps  # it left where it had been itself


def test_only_the_hyper_learning_rate_of_a_copy_is_perturbed(bench):
    one = bench(Bowl(), POPULATION, budget=150)
    factors, starts = {}, {}
    while run := one.coordinator.request_trial():
        if run.kind == "search" and not run.constant:
            factors.setdefault(run.number, []).append(run.hparams["hyper_lr_factor"])
            starts.setdefault(run.number, []).append(run.hparams["lr"])
        one.play(run)
    seen = {f for each in factors.values() for f in each}
    products = {round(1.2**a * 0.8**b, 9) for a in range(3) for b in range(3)}
    assert {0.8, 1.2} & seen
    assert {round(f, 9) for f in seen} <= products
    assert all(each[0] == 1.0 for each in factors.values())
    suggested = {each[0] for each in starts.values()}
    assert {s for each in starts.values() for s in each} == suggested


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
    own = rows[rows.parent == rows.trial] if method is POPULATION else rows
    assert not own.empty


@pytest.mark.parametrize("method", HYBRIDS, ids=named)
def test_where_a_better_run_ended_is_trained_at_as_a_constant(bench, method):
    task, seen = Bowl(), 0
    for budget in (150, 155, 160, 165):
        one, runs = bench(task, method, budget=budget), []
        while run := one.coordinator.request_trial():
            best = one.studies[0].best
            runs.append(run)
            one.play(run)
        (study,) = one.studies
        assert runs[0].constant
        assert runs[-1].kind == "final"
        assert budget - study.spent < study.spec.full_run
        rows = search_rows(one.frame())
        for run in runs[1:-1]:
            if not run.constant:
                continue
            seen += 1
            before = rows[(rows.trial < run.number) & (rows.status == "complete")]
            ended = before.loc[before.outer_loss.idxmin()]
            assert run.hparams["lr"] == ended["hp/lr"] != 0.1
            own = rows[rows.trial == run.number].iloc[-1]
            exact = task.outer(own["hp/lr"], 0)
            assert own.outer_loss == pytest.approx(exact, rel=1e-5)
        assert best[0] == rows.outer_loss[rows.status == "complete"].min()
    assert seen
