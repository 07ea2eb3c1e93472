"""Many runs as one vectorized program: the same numbers as one by one."""

import logging
from dataclasses import replace

import pytest
import torch

from raymeta.hypergrad import Reverse, ShortTerm
from raymeta.hypergrad.batched_problem import stack, stacked
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.online_run import OnlineRun
from raymeta.outer.report import plain_run
from raymeta.outer.vectorized import at_constants, descending
from raymeta.tasks import Digits, Quadratic


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
            estimator=ShortTerm(2, val_share=0.5),
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
