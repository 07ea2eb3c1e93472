"""Descent on a Gaussian process: where slopes help, and where values contradict."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from raymeta.hypergrad import Reverse
from raymeta.hypergrad.base import plain_cost
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.evaluator import Evaluator
from raymeta.outer.mixed_coordinates import MixedCoordinates
from raymeta.outer.surrogate import SurrogateDescent
from raymeta.problem import BilevelProblem, no_data
from raymeta.space import Positive, Real, Space, Unit

pytestmark = pytest.mark.usefixtures("float64")

#: Training steps of a run.
T = 4


class Liar(torch.autograd.Function):
    """The identity, whose derivative points the wrong way, and elsewhere each time."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return g * (30 * torch.cos(1e4 * x) - 3)


@dataclass(frozen=True, kw_only=True)
class Bowl:
    """E = scale (|x - 1|² + .1 Σ x_i x_j) + offset over four coordinates."""

    start: float = -2.0
    scale: float = 1.0
    offset: float = 0.0
    lies: bool = False
    cliff: float = math.inf
    name: str = "bowl"
    horizon: int = T
    budget: float = 30.0 * T

    @property
    def space(self) -> Space:
        return Space(x=Real(self.start, low=-4.0, high=4.0, shape=(4,)))

    def sample(self, seed: int) -> BilevelProblem:
        def outer_loss(state, hparams):
            x = Liar.apply(state) if self.lies else state
            value = (x - 1).square().sum() + 0.1 * (x.sum() ** 2 - x.square().sum())
            value = torch.where(x.max() > self.cliff, torch.nan, value)
            return self.scale * value + self.offset

        return BilevelProblem(
            init=lambda hparams: torch.zeros(4),
            batch=no_data,
            step=lambda x, hparams, batch: x + hparams["x"] / T,
            outer_loss=outer_loss,
            outer_cost=1.0,
        )

    #: Where it is least, and E there: solved by hand.
    @property
    def least(self) -> float:
        x = 1 / 1.3
        return self.scale * (4 * (x - 1) ** 2 + 1.2 * x**2) + self.offset


def descent(task, runs=30.0, **settings):
    problem = task.sample(0)
    given = {
        "problem": problem,
        "coordinates": MixedCoordinates(task.space),
        "estimator": Reverse(task.horizon),
        "horizon": task.horizon,
        "budget": runs * plain_cost(problem, task.horizon),
        "seed": 0,
        "hyper_lr": None,
    }
    return SurrogateDescent(**given | settings)


def losses(reports):
    return [report.outer_loss for report in reports]


def slopes(reports, problem):
    """How many of them were hypergradients."""
    spent = [0.0, *(report.gradient_evals for report in reports)]
    plain = plain_cost(problem, T)
    charges = [b - a for a, b in itertools.pairwise(spent)]
    return sum(charge > 1.5 * plain for charge in charges)


def test_with_slopes_thirty_runs_find_the_minimum_of_four_coordinates():
    task = Bowl()
    reports = list(descent(task).reports())
    alone = list(descent(task, refusal="values alone").reports())
    gap, without = (min(losses(r)) - task.least for r in (reports, alone))
    assert 0 <= gap < 0.02
    assert slopes(reports, task.sample(0)) >= 2
    assert slopes(alone, task.sample(0)) == 0
    assert without < 0.5  # of 40 at the start


@pytest.mark.filterwarnings("ignore:Liar has a backward pass")
def test_where_values_contradict_slopes_no_more_are_asked_for():
    task = Bowl(lies=True)
    reports = list(descent(task).reports())
    assert 1 <= slopes(reports, task.sample(0)) <= 3
    assert min(losses(reports)) - task.least < 0.5


class Refusing(Evaluator):
    def estimate(self, *args):
        raise ValueError("E does not depend on 'x'")


def test_where_an_estimate_is_refused_it_goes_on_by_values(caplog):
    reports = list(descent(Bowl(), evaluator=Refusing()).reports())
    alone = list(descent(Bowl(), refusal="values alone").reports())
    assert losses(reports) == losses(alone)
    assert "by values alone from here: E does not depend on 'x'" in caplog.text


def test_an_outer_loss_in_other_units_is_descended_by_the_same_path():
    one = [r.hparams for r in descent(Bowl()).reports()]
    other = [r.hparams for r in descent(Bowl(scale=8.0, offset=16.0)).reports()]
    assert len(one) == len(other)
    for a, b in zip(one[:14], other, strict=False):
        assert a == pytest.approx(b, abs=1e-3)


def test_runs_that_diverge_beside_the_minimum_do_not_hide_it():
    task = Bowl(cliff=1.2)
    reports = list(descent(task).reports())
    assert (
        min(loss for loss in losses(reports) if math.isfinite(loss)) < task.least + 0.5
    )


def test_from_a_start_that_diverges_it_finds_where_training_does_not():
    space = Space(x=Real(2.0, low=-4.0, high=4.0, shape=(4,)))

    class Steep(Bowl):
        @property
        def space(self):
            return space

    reports = list(descent(Steep(cliff=1.9)).reports())
    assert not math.isfinite(reports[0].outer_loss)
    assert any(report.scores for report in reports)


@pytest.mark.parametrize("runs", [1.0, 1.9, 5.0, 12.0, 30.0])
def test_the_budget_is_never_exceeded_and_one_run_is_left_at_most(runs):
    problem = Bowl().sample(0)
    reports = list(descent(Bowl(), runs=runs).reports())
    plain = plain_cost(problem, T)
    assert (
        runs * plain - plain < reports[-1].gradient_evals <= runs * plain * (1 + 1e-9)
    )


def test_the_same_seed_is_the_same_descent_and_another_is_not():
    first, again, other = (losses(descent(Bowl(), seed=s).reports()) for s in (3, 3, 4))
    assert first == again != other


def test_hyper_lr_is_half_the_width_of_the_first_region():
    """The first proposal, after the start and a design: around the best of them."""
    width = 0.2
    reports = list(descent(Bowl(), hyper_lr=width, refusal="values alone").reports())
    best = min(reports[:9], key=lambda report: report.outer_loss)
    moves = [abs(reports[9].hparams[k] - best.hparams[k]) for k in best.hparams]
    # A coordinate's share of it follows its length, from .3 to 3 times; x is λ here.
    assert 0 < max(moves) <= 3 * width


def test_a_search_by_values_looks_between_the_bounds_and_where_it_pays():
    space = Space(
        lr=Positive(0.1, low=1e-4, high=10.0),
        free=Positive(2.0),
        momentum=Unit(0.5),
        capped=Unit(0.5, low=0.2, high=0.9),
        real=Real(1.0, low=-4.0, high=4.0),
    )
    coordinates = Coordinates(space)
    low, high = (coordinates.hparams(x) for x in coordinates.box())
    found = {name: (float(low[name]), float(high[name])) for name in space}
    assert found["lr"] == pytest.approx((1e-4, 10.0))
    assert found["free"] == pytest.approx((2 * math.exp(-6), 2 * math.exp(6)))
    assert found["momentum"] == pytest.approx((0.05, 0.999))
    assert found["capped"] == pytest.approx((0.2, 0.9))
    assert found["real"] == pytest.approx((-4.0, 4.0))
