"""Batches of random points: their charges, sizes, shapes and winners."""

import math
from dataclasses import dataclass, replace

import pandas as pd
import pytest
from search_toys import Bowl

from raymeta.search.methods.restarts import Restarts
from raymeta.space import Choice, Space
from raymeta.tasks import DigitsChoices

CONSTANT = Restarts("random_batch", hyper_steps=0, size=3)
DESCENDING = Restarts("restarts", hyper_steps=20, size=3)


@dataclass(frozen=True, kw_only=True)
class Numbers(Bowl):
    """The toy without choices, and without `float()` of λ, which vmap cannot take."""

    @property
    def space(self):
        return Space(lr=super().space["lr"])

    def sample(self, seed):
        problem = super().sample(seed)
        target = self.target(seed)
        lr = lambda hparams: hparams["lr"].double()  # noqa: E731

        def step(state, hparams, batch):
            w = state.params["w"]
            return state._replace(params={"w": w - lr(hparams) * (w - target)})

        return replace(
            problem,
            step=step,
            outer_loss=lambda s, hparams: (s.params["w"] - target) ** 2,
            inner_loss=lambda s, hparams, b: (s.params["w"] - target) ** 2 / 2,
        )


def test_a_batch_of_constants_is_charged_for_every_run_and_exact(bench):
    task = Numbers()
    done = bench(task, CONSTANT, budget=10 * 7 + 5).run()
    frame = done.frame()
    rows = frame[frame.status == "complete"]
    assert list(rows.gradient_evals) == [10.0 * n for n in range(1, 8)]
    for row in rows.itertuples():
        lr = row[rows.columns.get_loc("hp/lr") + 1]
        assert row.outer_loss == pytest.approx(task.outer(lr, 0), rel=1e-5)
    assert rows["hp/lr"].iloc[0] == pytest.approx(0.1)
    assert rows["hp/lr"].nunique() == 7
    final = frame.iloc[-1]
    assert (final.status, final.failure) == ("final", "")
    assert final.outer_loss == rows.outer_loss.min()
    assert set(frame.family) == {"black-box"}


@pytest.mark.parametrize("method", [CONSTANT, DESCENDING], ids=lambda m: m.name)
def test_the_size_of_batches_changes_nothing(bench, method):
    frames = []
    for size in (1, 3, 8):
        done = bench(Numbers(), replace(method, size=size), budget=230).run()
        frames.append(done.frame().drop(columns="wall_s"))
    assert len(frames[0]) > 6
    for other in frames[1:]:
        pd.testing.assert_frame_equal(other, frames[0], rtol=1e-6)


def test_runs_that_descend_beat_those_that_do_not(bench):
    task = Numbers()
    rows = bench(task, DESCENDING, budget=230).run().frame()
    start, first = rows.iloc[0], rows.iloc[1]
    assert start["hp/lr"] == 0.1
    assert start.outer_loss == pytest.approx(task.outer(0.1, 0), rel=1e-6)
    assert start.gradient_evals == 9 + 1
    assert first["hp/lr"] > 0.1
    assert first.outer_loss < start.outer_loss * 0.5
    assert set(rows.family) == {"hybrid"}


@pytest.mark.parametrize("method", [CONSTANT, DESCENDING], ids=lambda m: m.name)
def test_a_batch_is_of_one_shape_and_the_winner_is_looked_at(bench, method):
    frame = bench(DigitsChoices(horizon=4), method, budget=150).run().frame()
    rows = frame[frame.status == "complete"]
    assert rows["hp/width"].nunique() > 1
    if method is DESCENDING:
        # Between the plain run at the start and the runs from where the best led.
        rows = rows[rows.gradient_evals <= 75].iloc[1:]
    options = rows[["hp/width", "hp/activation", "hp/optimizer"]]
    for start in range(0, len(rows) - 2, 3):
        assert len(options.iloc[start : start + 3].drop_duplicates()) == 1
    final = frame.iloc[-1]
    assert (final.status, final.failure) == ("final", "")
    assert final.test_accuracy > 0


@pytest.mark.parametrize("method", [CONSTANT, DESCENDING], ids=lambda m: m.name)
def test_an_unbounded_space_is_refused(method):
    task = replace(Numbers(), name="bowl")
    space = Space(lr=replace(task.space["lr"], high=float("inf")), kind=Choice([1]))

    class Unbounded(Numbers):
        @property
        def space(self):
            return space

    with pytest.raises(ValueError, match="finite bounds"):
        method.min_budget(Unbounded(), task.sample(0))


def test_half_of_the_budget_goes_on_from_what_the_best_run_learned():
    """First as a constant: the mean λ of that run, at a plain run's charge."""
    task = Numbers()
    problem = task.sample(0)
    budget = 12 * DESCENDING.sure_budget(task, problem)
    reports = [r for r in DESCENDING.reports(task, problem, 0, budget) if r.complete]
    random = int((budget / 2 - 10) // 36)
    best = min(reports[1 : 1 + random], key=lambda r: r.outer_loss)
    before, warm = reports[random : random + 2]
    assert before.gradient_evals == 10 + 36 * random
    assert warm.gradient_evals - before.gradient_evals == 9 + 1
    exact = task.outer(warm.hparams["lr"], 0)
    assert warm.outer_loss == pytest.approx(exact, rel=1e-5)
    assert warm.outer_loss < before.outer_loss
    assert abs(math.log(warm.hparams["lr"] / best.hparams["lr"])) < 1
    assert len(reports) > 10
