"""Searches whose trials descend; numbers against the toy's closed form."""

import math
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from search_toys import Bowl

from raymeta.hypergrad import ShortTerm
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.online_run import OnlineRun
from raymeta.outer.steps.adam import HYPER_LR
from raymeta.search.methods.pbt_descent import PbtDescent
from raymeta.search.methods.tpe_descent import TpeDescent
from raymeta.search.plan import make_plan
from raymeta.search.worker import trial_runner
from raymeta.search.worker.trial_store import TrialStore
from raymeta.space import Choice, Positive, Space
from raymeta.tasks import DigitsChoices, Quadratic

POPULATION = PbtDescent(population=4, intervals=3, quantile=0.5)
HYBRIDS = [TpeDescent(), POPULATION]


def named(method):
    return method.name


def within(task, steps=1):
    problem = task.sample(0)
    space = task.space
    fixed = {name: Choice((c.initial,)) for name, c in space.choices.items()}
    return OnlineRun(
        problem=problem,
        coordinates=Coordinates(Space(**{**space, **fixed})),
        estimator=ShortTerm(steps),
        horizon=task.horizon,
    )


class TestWithinRun:
    def test_without_hyper_steps_it_is_plain_training(self):
        task = Bowl()
        run = within(task)
        start = run.begin(run.coordinates.start())

        reports = [r for r, _ in run.reports(start, (4, 9), factor=0.0)]

        for report, steps in zip(reports, (4, 9), strict=True):
            exact = task.outer(0.1, 0, steps)
            assert report.outer_loss == pytest.approx(exact, rel=1e-6)
            assert report.hparams["lr"] == pytest.approx(0.1)
        assert [r.complete for r in reports] == [False, True]

    @pytest.mark.parametrize("factor", [1.0, 0.3])
    def test_the_first_hyper_step_has_the_length_of_the_hyper_learning_rate(
        self, factor
    ):
        """Adam's first step is η sign(g), and a larger lr lowers the loss."""
        task = Bowl()
        run = within(task)
        start = run.begin(run.coordinates.start())

        (_, standing), (report, _) = run.reports(start, (1, 2), factor=factor)

        second = 0.1 * math.exp(factor * HYPER_LR)
        assert float(standing.x.exp()) == pytest.approx(second, rel=1e-6)
        exact = (1 - 0.1) ** 2 * (1 - second) ** 2
        assert report.outer_loss == pytest.approx(exact, rel=1e-6)

    def test_left_and_taken_up_it_is_the_same_run_to_the_last_bit(self):
        task = Quadratic()
        run = within(task, steps=3)
        start = run.begin(run.coordinates.start())
        rungs = (5, 11, 20)
        whole = list(run.reports(start, rungs))

        standing, pieces = start, []
        for rung in rungs:
            ((report, standing),) = run.reports(standing, (rung,))
            pieces.append(report)

        for (report, _), piece in zip(whole, pieces, strict=True):
            assert (piece.outer_loss, piece.hparams) == (
                report.outer_loss,
                report.hparams,
            )

    def test_it_charges_what_it_said(self):
        task = Quadratic()
        run = within(task, steps=3)
        start = run.begin(run.coordinates.start())
        rungs = (5, 11, 20)
        total = 0.0
        charges = run.charges(rungs)
        for (report, _), charge in zip(run.reports(start, rungs), charges, strict=True):
            total += charge
            assert report.gradient_evals == pytest.approx(total)


def results(bench):
    return bench.frame().drop(columns="wall_s")


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
        pd.testing.assert_frame_equal(results(again.run()), results(whole))


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
            study = one.coordinator.studies[run.study]
            said = trial_runner.reports_of(run, study.spec.task, POPULATION, where)
            if not any(one.coordinator.record(run, [m], last=False) for m in said):
                one.coordinator.record(run, [], last=True)
        frames.append(results(one))
    pd.testing.assert_frame_equal(*frames)
    cell = one.studies[0].spec.key
    like = POPULATION.begin(Bowl(), Bowl().sample(0), {"lr": 0.1, "kind": "plain"})
    saved = states.load(cell, 1, 6, like)
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


def test_starts_on_the_bounds_are_moved_inside():
    space = Space(lr=Positive(0.1, low=0.01, high=1.9))
    coordinates = Coordinates(space)
    for value, inside in (0.01, 0.01), (1.9, 1.9), (5.0, 1.9):
        x = coordinates.at({"lr": torch.tensor(value, dtype=torch.float64)})
        assert float(coordinates.hparams(x)["lr"]) == pytest.approx(inside)
