"""What a descent finds is never worse than training at the start."""

import json
import math
import warnings
from dataclasses import dataclass

import pytest
import torch

from raymeta import optimize, tower
from raymeta.hypergrad import (
    ES,
    PES,
    Checkpointed,
    ConjugateGradient,
    Estimator,
    Forward,
    Implicit,
    Reverse,
    Reversible,
    ShortTerm,
    Truncated,
)
from raymeta.hypergrad.base import plain_cost
from raymeta.optim import sgd
from raymeta.outer.descend import descend, run_cost, sure_cost
from raymeta.outer.replay import replay
from raymeta.outer.report import outer_value, plain_run
from raymeta.problem import BilevelProblem
from raymeta.space import Positive, Space
from raymeta.tasks import Quadratic
from tests.support.ridge import Ridge, Well
from tests.support.small_tasks import Diverging

pytestmark = pytest.mark.usefixtures("float64")
TASK = Well(horizon=16, budget=500.0, momentum=0.1)
WHOLE: list[Estimator] = [
    Reverse(16),
    Truncated(16, window=4),
    Checkpointed(16),
    Reversible(16),
    Forward(16),
    Implicit(16, ConjugateGradient(20)),
    ES(16, sigma=0.02, pairs=2),
]
ONLINE: list[Estimator] = [
    ShortTerm(1),
    ShortTerm(6),
    Forward(4),
    PES(4, sigma=0.02, pairs=2),
]
every_estimator = pytest.mark.parametrize("estimator", WHOLE + ONLINE, ids=str)


def initial(task) -> float:
    """E over the whole horizon at the start."""
    return plain_run(task.sample(0), task.space.initial(), task.horizon)[1]


@every_estimator
@pytest.mark.parametrize("runs", [1.0, 1.7, 4.0])
def test_the_start_comes_first_and_nothing_worse_is_returned(estimator, runs, tmp_path):
    """Also for a budget that just covers it: then it is what is found."""
    budget = runs * sure_cost(TASK, TASK.sample(0), estimator)
    result = optimize(TASK, estimator, budget=budget)
    start, first = initial(TASK), result.reports[0]
    assert (first.outer_step, first.complete, first.inner_steps) == (1, True, 16)
    assert first.hparams == TASK.space.point(TASK.space.initial())
    assert result.start_loss == first.outer_loss == pytest.approx(start, rel=1e-12)
    assert result.outer_loss == result.start_loss  # everything else is worse
    elsewhere = [r for r in result.reports if r.hparams != first.hparams]
    assert all(r.outer_loss > start + 0.1 for r in elsewhere if r.complete)
    assert (runs < 4) or elsewhere
    assert result.reports[-1].gradient_evals <= budget * (1 + 1e-9)

    assert result.schedule == [(16, first.hparams)]
    assert torch.equal(result.hparams["l2"], TASK.space.initial()["l2"])
    problem = TASK.sample(0)
    state = replay(problem, TASK.space, result.schedule)
    again = outer_value(problem, state, result.hparams)
    assert again == pytest.approx(result.outer_loss, rel=1e-12)
    result.export(tmp_path / "schedule.json")
    assert json.loads((tmp_path / "schedule.json").read_text())
    frame = result.frame
    assert (frame["best_outer_loss"] == result.start_loss).all()
    assert frame["status"].iloc[[0, -1]].tolist() == ["complete", "final"]
    assert frame["hp/l2[3]"].iloc[[0, -1]].tolist() == [0.5, 0.5]


@every_estimator
def test_the_start_is_paid_once(estimator):
    """By a plain run; or not at all, where the first estimate is one of a whole run."""
    problem = TASK.sample(0)
    least = run_cost(TASK, problem, estimator)
    plain = plain_cost(problem, 16)
    whole = estimator in WHOLE
    assert sure_cost(TASK, problem, estimator) == least + (0 if whole else plain)
    small, large = (
        next(descend(TASK, problem, estimator, seed=0, budget=budget))
        for budget in (sure_cost(TASK, problem, estimator), 10 * least)
    )
    if whole:  # a linear system may be solved sooner than it is charged for
        assert plain < small.gradient_evals <= least * (1 + 1e-9)
    else:
        assert small.gradient_evals == pytest.approx(plain)
    assert large.gradient_evals == pytest.approx(plain)
    assert small.outer_loss == pytest.approx(large.outer_loss, rel=1e-12)


@every_estimator
def test_elsewhere_it_costs_a_plain_run_and_is_left(estimator):
    budget = 12 * run_cost(TASK, TASK.sample(0), estimator)
    task = Ridge(horizon=16, budget=budget, momentum=0.1)
    result = optimize(task, estimator)
    assert result.start_loss == pytest.approx(initial(task), rel=1e-12)
    assert result.outer_loss < 0.9 * result.start_loss


@pytest.mark.parametrize("estimator", ONLINE, ids=str)
def test_a_budget_that_does_not_cover_the_start_is_warned_of(estimator):
    sure = sure_cost(TASK, TASK.sample(0), estimator)
    message = (
        rf"{type(estimator).__name__} on 'well': a budget of .* gradient evaluations "
        r"does not cover a training run at the start as well, so what is found may be "
        rf"worse than the start: give {math.ceil(sure)} or more"
    )
    with pytest.warns(UserWarning, match=message):
        result = optimize(TASK, estimator, budget=sure - 1e-3)
    assert result.start_loss is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimize(TASK, estimator, budget=math.ceil(sure))


@pytest.mark.parametrize("estimator", [Reverse(20), Forward(20), ShortTerm(3)], ids=str)
def test_a_start_that_diverges_is_infinite_and_is_left(estimator):
    torch.set_default_dtype(torch.float32)
    task = Diverging(lr=1e4)
    result = optimize(task, estimator, budget=2000)
    assert result.start_loss == math.inf
    assert result.outer_loss < 10
    first = result.frame.iloc[0]
    assert math.isnan(first["outer_loss"])
    assert math.isnan(first["best_outer_loss"])
    assert first["failure"] == "non-finite outer loss"


@dataclass(frozen=True, kw_only=True)
class Narrow(Quadratic):
    """A valley of E over the rate, at its start, whose walls rise over T steps."""

    horizon: int = 24

    @property
    def space(self) -> Space:
        return Space(lr=Positive(0.19), momentum=Positive(1e-3, high=0.5))


@pytest.mark.parametrize(
    "estimator", [Reverse(24), Forward(24), ShortTerm(1), ShortTerm(8)], ids=str
)
@pytest.mark.parametrize("budget", [150, 200, 400, 800])
def test_a_rate_at_the_edge_of_stability_is_not_overshot(estimator, budget):
    """A factor of e in the rate is divergence; the budget may end there."""
    task = Narrow()
    result = optimize(task, estimator, budget=budget)
    assert result.outer_loss <= result.start_loss
    assert result.start_loss == pytest.approx(initial(task), rel=1e-12)


@pytest.mark.parametrize("estimator", [Reverse(12), ShortTerm(3)], ids=str)
def test_a_tower_is_no_worse_than_its_start_either(estimator):
    class Tower:
        name, horizon, budget = "tower", 12, 600.0
        space = Space(hyper_lr=Positive(0.3))

        def sample(self, seed: int) -> BilevelProblem:
            below = Ridge()
            return tower(
                below.sample(seed),
                below.space.initial(),
                lambda kappa: sgd(kappa["hyper_lr"]),
                space=below.space,
            )

    result = optimize(Tower(), estimator)
    assert result.start_loss == pytest.approx(initial(Tower()), rel=1e-12)
    assert result.outer_loss <= result.start_loss


def test_where_short_horizons_mislead_the_start_is_gone_on_from():
    """Hypergradients over T begin at the better of the two."""
    result = optimize(Well(horizon=16, lowest=0.0), Reverse(16), budget=500)
    misled = optimize(TASK, Reverse(16))
    kinds = [
        [(r.inner_steps, r.hparams["l2[0]"]) for r in found.reports[:6]]
        for found in (result, misled)
    ]
    assert [steps for steps, _ in kinds[0]] == [16, 2, 4, 8, 16, 16]
    assert kinds[0][5][1] != 0.5
    assert kinds[1][5] == (16, 0.5)
