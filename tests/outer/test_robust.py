"""What descents do not depend on: the scale of E, units; and hardly on `hyper_lr`."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from raymeta import optimize
from raymeta.hypergrad import Estimator, Forward, Reverse, ShortTerm
from raymeta.optim import sgd
from raymeta.problem import BilevelProblem, descent
from raymeta.space import Positive, Real, Space
from raymeta.tasks import Logistic, Quadratic
from raymeta.types import Tensors

pytestmark = pytest.mark.usefixtures("float64")

#: Four decades.
HYPER_RATES = [1e-3, 1e-2, 1e-1, 1.0, 10.0]


@dataclass(frozen=True, kw_only=True)
class Scaled(Quadratic):
    """The outer loss is a E + b."""

    a: float = 1.0
    b: float = 0.0

    def sample(self, seed: int) -> BilevelProblem:
        problem = super().sample(seed)
        outer_loss = problem.outer_loss
        return replace(
            problem, outer_loss=lambda s, h: self.a * outer_loss(s, h) + self.b
        )


def path(task, estimator: Estimator, **settings) -> list[dict]:
    return [r.hparams for r in optimize(task, estimator, **settings).reports]


@pytest.mark.parametrize("a", [2.0**-40, 2.0**60])
@pytest.mark.parametrize("estimator", [Reverse(20), Forward(20), ShortTerm(4)], ids=str)
def test_multiples_of_the_outer_loss_are_descended_by_the_same_path(estimator, a):
    assert path(Scaled(a=a), estimator) == path(Quadratic(), estimator)


@pytest.mark.parametrize("estimator", [Reverse(20), ShortTerm(4)], ids=str)
def test_a_constant_added_to_the_outer_loss_does_not_change_the_path(estimator):
    """As far as rounding lets values be compared: E is of order 1 in these reports."""
    plain = path(Quadratic(), estimator, budget=400)
    moved = path(Scaled(b=8.0), estimator, budget=400)
    assert len(plain) == len(moved)
    for one, other in zip(plain, moved, strict=True):
        assert one == pytest.approx(other, rel=1e-6)


@dataclass(frozen=True, kw_only=True)
class Aim:
    """One step of SGD, w = -lr (w0 - target) from a learned start and rate.

    Lengths are measured in `unit`: a Real between bounds, and a rate in 1 / unit.
    """

    unit: float = 1.0
    name: str = "aim"
    horizon: int = 4
    budget: float = 600.0

    @property
    def space(self) -> Space:
        return Space(
            start=Real(0.0, low=-4.0 / self.unit, high=4.0 / self.unit, shape=(3,)),
            lr=Positive(1e-2 * self.unit),
        )

    def sample(self, seed: int) -> BilevelProblem:
        target = torch.tensor([1.0, -2.0, 3.0])

        def loss(params: Tensors, *_: object) -> torch.Tensor:
            return ((params["w"] * self.unit - target).square()).sum()

        return descent(
            init_params=lambda hparams: {"w": hparams["start"]},
            inner_loss=loss,
            outer_loss=loss,
            optimizer=lambda hparams: sgd(hparams["lr"] / self.unit**3),
        )


def test_units_of_the_hyperparameters_make_no_difference():
    """Exactly, for a unit that is a power of two: metres or 1024 metres."""
    one, other = (path(Aim(unit=unit), Reverse(4)) for unit in (1.0, 1024.0))
    assert len(one) == len(other) > 20
    for a, b in zip(one, other, strict=True):
        for i in range(3):
            assert b[f"start[{i}]"] * 1024 == pytest.approx(a[f"start[{i}]"], abs=1e-9)
        assert b["lr"] / 1024 == pytest.approx(a["lr"], rel=1e-9)


def best(task, estimator: Estimator, hyper_lr: float | None, **settings) -> float:
    return optimize(task, estimator, hyper_lr=hyper_lr, **settings).outer_loss


@pytest.mark.parametrize("hyper_lr", HYPER_RATES)
def test_whole_runs_reach_the_optimum_of_the_quadratic_at_any_hyper_rate(hyper_lr):
    """Below 1e-3 of the start, and below the best rate without momentum."""
    task = Quadratic()
    start = task.closed_form(10**-1.75, 0.495, 20, task.start(0))[0]
    rates = torch.linspace(0.01, 0.3, 300).tolist()
    plain = min(task.closed_form(lr, 0.0, 20, task.start(0))[0] for lr in rates)
    found = best(task, Reverse(20), hyper_lr)
    assert found < 1e-3 * start
    assert found < plain


@pytest.mark.parametrize("estimator", [ShortTerm(1), ShortTerm(4), Forward(5)], ids=str)
def test_online_descent_is_flat_in_its_hyper_rate(estimator):
    task = Quadratic()
    start = task.closed_form(10**-1.75, 0.495, 20, task.start(0))[0]
    values = [best(task, estimator, hyper_lr) for hyper_lr in HYPER_RATES]
    assert max(values) < 0.1 * start


def test_a_real_task_is_flat_in_the_hyper_rate():
    """30 penalties of a logistic regression: within 20 % over four decades."""
    torch.set_default_dtype(torch.float32)
    task = Logistic(horizon=60)
    values = [
        best(task, Reverse(60), hyper_lr, budget=1200) for hyper_lr in HYPER_RATES
    ]
    assert max(values) < 1.2 * min(values)
    untrained = math.log(2)
    assert max(values) < 0.2 * untrained
