"""Descents on ranks: the rows of one process, what is told, what is refused."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import distributed as dist

from raymeta import optimize
from raymeta.hypergrad import ES, Forward
from raymeta.hypergrad.registry import by_name
from raymeta.outer.auto import Auto
from raymeta.outer.parallel import Layout, require_parallel
from raymeta.problem import BilevelProblem
from raymeta.search import named
from raymeta.tasks import Quadratic
from raymeta.workers.rank import Job
from tests.support import on_ranks
from tests.support.small_tasks import Small

pytestmark = pytest.mark.usefixtures("float64")
SETTINGS = {"hyper_lr": None, "budget": 150.0, "seed": 3}
#: Rounding alone, grown over the steps of the descent.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


class HeldBack(Small):
    """With examples that are held back, whose loss at the start is a number apart."""

    def sample(self, seed):
        problem = super().sample(seed)
        return replace(problem, holdout_loss=problem.outer_loss)


class OtherSteps:
    """Steps that are no gradient descent."""

    name, horizon, budget, space = "other", 3, 100.0, Small().space

    def sample(self, seed):
        return BilevelProblem(
            init=lambda h: h["lr"], step=lambda s, h, b: s, outer_loss=lambda s, h: s
        )


class Drifting(Quadratic):
    """Whose outer loss is another one on each rank, by little."""

    def sample(self, seed):
        problem = super().sample(seed)
        return replace(
            problem,
            outer_loss=lambda s, h: problem.outer_loss(s, h) + 1e-12 * dist.get_rank(),
        )


def job(task, estimator, parallel="data", kept=None, looks=False):
    dtype = torch.float64
    return Job(task, estimator, SETTINGS, parallel, looks, kept, dtype)


def result_of(heard):
    (result,) = [told.result for told in heard if told.result is not None]
    return result


def same(result, truth):
    pd.testing.assert_frame_equal(
        *(x.frame.drop(columns="wall_s") for x in (result, truth)), **CLOSE
    )


@pytest.mark.parametrize(
    ("estimator", "parallel", "world"),
    [
        (Auto(), "data", 2),
        (by_name("short_term", 13), "data", 3),
        (Forward(13), "tangents", 2),
        (ES(13, sigma=0.01, pairs=2), "population", 2),
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, str | int) else None,
)
def test_rows_are_those_of_one_process(three_ranks, estimator, parallel, world):
    task = HeldBack()
    truth = optimize(task, estimator, budget=150, seed=3, progress=False)
    given = job(task, estimator, parallel, looks=True)
    (heard, said), *others = three_ranks.run(on_ranks.optimized, given, world=world)
    assert said == ""
    assert others == [([], "")] * (world - 1)
    same(result_of(heard), truth)
    shown = [report.outer_loss for told in heard for report, _ in told.reports]
    assert shown == pytest.approx([r.outer_loss for r in truth.reports], rel=1e-10)
    assert heard[0].lines[0].startswith("small at first look")


def test_all_ranks_go_on_from_the_log_of_rank_0(three_ranks, tmp_path):
    task, estimator = HeldBack(), by_name("short_term", 13)
    with named.folder_of(task, estimator, SETTINGS, "x", tmp_path) as folder:
        kept = named.begun(folder, task, estimator, SETTINGS, None)
        whole = three_ranks.run(on_ranks.optimized, job(task, estimator), world=2)
        truth = result_of(whole[0][0])
        given = job(task, estimator, kept=kept, looks=True)
        (heard, _), _ = three_ranks.run(on_ranks.optimized, given, 5, world=2)
        ended = result_of(heard)
        assert ended.interrupted
        assert len(ended.reports) < len(truth.reports)
        # The same name goes on with another number of ranks.
        (heard, said), *_ = three_ranks.run(on_ranks.optimized, given)
        assert said == ""
        line = heard[0].lines[0]
        assert line.startswith("goes on after ")
        assert int(line.split()[3]) >= len(ended.reports) - 1
        same(result_of(heard), truth)


def test_what_cannot_be_shared_out_is_refused_before_workers_start():
    for task, estimator, parallel, said in (
        (
            OtherSteps(),
            Auto(),
            "data",
            "^task 'other': .*needs steps that are",
        ),
        (Small(), Auto(), "tangents", "shares out the tangents of Forward, but .*Auto"),
        (Small(), Forward(13), "population", "the population of ES or PES, but"),
    ):
        with pytest.raises(ValueError, match=said):
            require_parallel(task, estimator, Layout(2, 0, parallel), 0)
    with pytest.raises(ValueError, match=r"an example for each of 7 ranks.*has 6"):
        require_parallel(Small(), Auto(), Layout(7), 0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"workers": 0}, "^workers must be a whole number, 1 or more, but got 0$"),
        ({"workers": 1.5}, "^workers must be a whole number"),
        ({"workers": True}, "^workers must be a whole number"),
        ({"gpus": -1}, "^gpus must be a whole number, 0 or more"),
        ({"workers": 2, "gpus": 3}, "^every worker gets as many GPUs.*multiple of 2$"),
        ({"workers": 2, "parallel": "date"}, "^unknown parallel 'date': did you mean"),
    ],
)
def test_workers_that_make_no_sense_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        optimize(Quadratic(), **given)


def test_ranks_that_compute_something_else_are_told_apart(three_ranks):
    answers = three_ranks.run(
        on_ranks.optimized, job(Drifting(horizon=3), Forward(3), "tangents"), world=2
    )
    for _, said in answers:
        assert said.startswith("ranks must have the same reports, but 'outer_loss' is")
