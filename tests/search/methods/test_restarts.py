"""Batches of runs as one vectorized program: the same numbers as one by one."""

import logging
from dataclasses import dataclass, replace

import pandas as pd
import pytest
import torch
from search_toys import Bowl

from raymeta.hypergrad import Reverse, ShortTerm
from raymeta.outer.batched_problem import stack, stacked
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.online_run import OnlineRun
from raymeta.outer.report import plain_run
from raymeta.outer.vectorized import at_constants, descending
from raymeta.search.methods.restarts import Restarts
from raymeta.space import Choice, Space
from raymeta.tasks import Digits, DigitsChoices, Quadratic

CONSTANT = Restarts("random_batch", hyper_steps=0, size=3)
DESCENDING = Restarts("restarts", hyper_steps=20, size=3)


def unvectorized(problem):
    """The same problem, with a step that `vmap` cannot take."""

    def step(state, hparams, batch):
        for value in hparams.values():
            if isinstance(value, torch.Tensor):
                value.reshape(-1)[0].item()
        return problem.step(state, hparams, batch)

    return replace(problem, step=step)


def points(space, count=4):
    """λ in double precision, near the start and apart from each other."""
    start = space.initial(torch.float64)
    return [
        {k: v * (1 + 0.3 * i) for k, v in start.items() if isinstance(v, torch.Tensor)}
        | {k: v for k, v in start.items() if not isinstance(v, torch.Tensor)}
        for i in range(count)
    ]


def default(hparams):
    dtype = torch.get_default_dtype()
    return {k: v.to(dtype) for k, v in hparams.items()}


@pytest.mark.parametrize("task", [Quadratic(), Digits(horizon=6)], ids=lambda t: t.name)
class TestAgainstOneByOne:
    def test_constants_to_the_last_digits_of_double_precision(self, float64, task):
        problem, runs = task.sample(0), points(task.space)
        found = list(at_constants(problem, task.space, runs, 6))
        assert len(found) == len(runs)
        for ran, hparams in zip(found, runs, strict=True):
            state, value = plain_run(problem, hparams, 6)
            assert ran.value == pytest.approx(value, rel=1e-12)
            assert ran.point == task.space.point(hparams)
            torch.testing.assert_close(ran.state, state, rtol=1e-12, atol=1e-12)

    def test_constants_in_single_precision(self, task):
        problem = task.sample(0)
        runs = [default(hparams) for hparams in points(task.space)]
        for ran, hparams in zip(
            at_constants(problem, task.space, runs, 6), runs, strict=True
        ):
            assert ran.value == pytest.approx(plain_run(problem, hparams, 6)[1], 1e-6)

    def test_hypergradients_separate(self, float64, task):
        problem, runs = task.sample(0), points(task.space)
        many, estimator = stacked(problem), Reverse(4)
        hparams = stack(runs)
        all_at_once, _ = estimator.estimate(
            many, hparams, estimator.init(many, hparams)
        )
        for i, run in enumerate(runs):
            alone, _ = estimator.estimate(problem, run, estimator.init(problem, run))
            for name, grad in alone.grads.items():
                torch.testing.assert_close(
                    all_at_once.grads[name][i], grad, rtol=1e-9, atol=1e-13
                )

    def test_descents(self, float64, task, caplog):
        one = OnlineRun(
            problem=task.sample(0),
            coordinates=Coordinates(task.space),
            estimator=ShortTerm(2),
            horizon=7,
        )
        starts = points(task.space)
        together = list(descending(one, starts))
        assert not caplog.records
        alone = replace(one, problem=unvectorized(one.problem))
        with caplog.at_level(logging.WARNING):
            apart = list(descending(alone, starts))
        assert "one by one" in caplog.text
        for ran, other in zip(together, apart, strict=True):
            assert ran.value == pytest.approx(other.value, rel=1e-9)
            assert ran.point == pytest.approx(other.point, rel=1e-9)


def test_what_cannot_be_vectorized_runs_one_by_one(float64, caplog):
    task = Quadratic()
    problem, runs = task.sample(0), points(task.space)
    whole = list(at_constants(problem, task.space, runs, 6))
    with caplog.at_level(logging.WARNING):
        apart = list(at_constants(unvectorized(problem), task.space, runs, 6))
    assert caplog.text.count("one by one") == 1
    assert [r.value for r in apart] == pytest.approx([r.value for r in whole], 1e-12)


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
    frame = bench(DigitsChoices(horizon=4), method, budget=260).run().frame()
    rows = frame[frame.status == "complete"]
    assert rows["hp/width"].nunique() > 1
    if method is DESCENDING:
        rows = rows.iloc[1:]  # the plain run at the start
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
