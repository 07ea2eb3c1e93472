"""Descents and hybrids of a comparison find nothing worse than the start."""

import math
import warnings
from dataclasses import replace

import pandas as pd
import pytest
import torch
from search_toys import Bowl

from raymeta import optimize
from raymeta.hypergrad.base import plain_cost
from raymeta.outer.report import plain_run
from raymeta.results.schema import HYBRID, HYPERGRADIENT
from raymeta.search.methods import METHODS, SearchMethod
from raymeta.search.plan import make_plan
from tests.support.ridge import Well

TASK = Well(horizon=16, momentum=0.1)
HYBRIDS = [name for name, m in METHODS.items() if m.family == HYBRID]
SEARCHES = [name for name in HYBRIDS if isinstance(METHODS[name], SearchMethod)]
DESCENTS = [name for name, m in METHODS.items() if m.family == HYPERGRADIENT]


def sure(name, task=TASK):
    return METHODS[name].sure_budget(task, task.sample(0))


@pytest.mark.parametrize("runs", [1.0, 3.6])
@pytest.mark.parametrize("name", HYBRIDS + DESCENTS)
def test_the_start_is_the_first_row_and_the_best(bench, name, runs):
    """For every other point is worse. It is looked at again, at the test set's turn."""
    before = plain_cost(TASK.sample(0), 16) if name == "pbt_descent" else 0.0
    budget = runs * (sure(name) + before)
    done = bench(TASK, name, budget=budget).run()
    frame, problem = done.frame(), TASK.sample(0)
    value = plain_run(problem, TASK.space.initial(), 16)[1]
    first, final = frame.iloc[0], frame.iloc[-1]
    assert (first.trial, first.outer_step, first.inner_steps) == (0, 1, 16)
    assert (first.status, first.failure) == ("complete", "")
    assert first.outer_loss == pytest.approx(value, rel=1e-5)
    assert first[[f"hp/{n}" for n in TASK.space.initial_point()]].tolist() == [0.5] * 6
    if name in HYBRIDS:
        assert first.gradient_evals == pytest.approx(plain_cost(problem, 16))
    assert (final.status, final.failure) == ("final", "")
    assert final.outer_loss == frame.best_outer_loss.min() == first.outer_loss
    assert final[frame.columns[frame.columns.str.startswith("hp/")]].tolist() == (
        [0.5] * 6
    )
    assert done.studies[0].spent <= budget * (1 + 1e-9)
    assert (frame.trial.nunique() > 1) == (name in SEARCHES)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_killed_one_goes_on_from_the_start_or_after_it(bench, name):
    budget = 3.6 * sure(name)
    whole = bench(TASK, name, budget=budget).run()
    events = whole.journal.read()
    assert ("constant" in events[0]) == METHODS[name].looks_at_start
    for killed_after in (0, 1, 2, 3, len(events) // 2, len(events) - 1):
        again = bench(TASK, name, budget, events=events[:killed_after]).run()
        pd.testing.assert_frame_equal(
            again.frame().drop(columns="wall_s"), whole.frame().drop(columns="wall_s")
        )


class Pit(Well):
    """E is not finite at the start."""

    def sample(self, seed):
        problem = super().sample(seed)

        def outer_loss(state, hparams):
            away = (hparams["l2"].log() - math.log(0.5)).abs().max()
            value = problem.outer_loss(state, hparams)
            return torch.where(away < 1e-3, math.nan, value)

        return replace(problem, outer_loss=outer_loss)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_start_that_diverges_is_a_failed_trial_and_everything_goes_on(bench, name):
    task = Pit(horizon=16, momentum=0.1)
    frame = bench(task, name, budget=4 * sure(name)).run().frame()
    first = frame.iloc[0]
    assert (first.status, first.trial, first.inner_steps) == ("failed", 0, 16)
    assert first.failure == "non-finite outer loss at inner step 16"
    assert first.gradient_evals == pytest.approx(plain_cost(task.sample(0), 16))
    assert math.isnan(first.best_outer_loss)
    assert math.isfinite(frame.best_outer_loss.iloc[-1])
    assert frame.iloc[-1].status == "final"


def test_a_worker_that_dies_at_the_start_runs_it_again(bench):
    name = "pbt_descent"
    whole = bench(TASK, name, budget=4 * sure(name)).run().frame()
    one = bench(TASK, name, budget=4 * sure(name))
    run = one.coordinator.request_trial()
    assert run.constant
    assert one.coordinator.request_trial() is None  # the others wait
    one.coordinator.on_worker_lost(run, "the node went")
    pd.testing.assert_frame_equal(
        one.run().frame().drop(columns="wall_s"), whole.drop(columns="wall_s")
    )


WITHOUT = [
    n
    for n in HYBRIDS + DESCENTS
    if sure(n) > METHODS[n].min_budget(TASK, TASK.sample(0))
]


@pytest.mark.parametrize("name", WITHOUT)
def test_a_budget_that_does_not_cover_the_start_is_warned_of(bench, name):
    """Then the method does as it would without."""
    budget = sure(name) - 1e-3
    (line,) = make_plan(TASK, name, budget, 2).unsure()
    assert line.startswith(f"{name} on 'well': a budget of ")
    assert line.endswith(f"give {math.ceil(sure(name))} or more")
    frame = bench(TASK, name, budget=budget).run().frame()
    start = plain_run(TASK.sample(0), TASK.space.initial(), 16)[1]
    assert (frame.outer_loss[frame.status == "complete"] > start + 0.1).all()
    assert make_plan(TASK, name, sure(name), 2).unsure() == []


def test_whole_run_descents_and_searches_are_not_warned_of():
    names = ["random", "asha", "tpe", "long_term", "es"]
    assert not set(names) & set(WITHOUT)
    budget = max(sure(name) for name in names[3:])
    assert make_plan(TASK, names, budget, 2).unsure() == []


def test_optimize_and_a_comparison_are_one_descent(bench):
    """To the last bit, start included."""
    for name, estimator in ("long_term", "reverse"), ("short_term", "short_term"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mine = optimize(Bowl(), estimator, budget=400, progress=False).frame
        theirs = bench(Bowl(), name, budget=400).run().frame()
        for column in ("outer_loss", "gradient_evals", "outer_step", "hp/lr"):
            assert mine[column].tolist() == theirs[column].tolist()


def test_trials_of_restarts_come_after_the_start_whatever_its_precision(float64):
    value = plain_run(TASK.sample(0), TASK.space.initial(), 16)[1]
    method = METHODS["restarts"]
    first, second, *_ = method.reports(TASK, TASK.sample(0), 0, 4 * sure("restarts"))
    assert first.outer_loss == value
    assert torch.get_default_dtype() == torch.float64
    assert second.hparams != first.hparams
