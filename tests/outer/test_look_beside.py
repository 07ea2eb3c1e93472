"""Looks beside what a descent found: what is returned is good beside itself, too."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from raymeta import optimize
from raymeta.hypergrad import Reverse
from raymeta.outer.base import BESIDE, HyperDescent
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.offline import OfflineDescent
from raymeta.outer.report import Report
from raymeta.problem import BilevelProblem, no_data
from raymeta.space import Real, Space

pytestmark = pytest.mark.usefixtures("float64")


@dataclass(frozen=True, kw_only=True)
class Function:
    """E(λ) is a function of one number, whatever training does."""

    of: Callable[[Tensor], Tensor]
    low: float = -math.inf
    name: str = "function"
    horizon: int = 1
    budget: float = 40.0

    @property
    def space(self) -> Space:
        return Space(at=Real(0.0, low=self.low))

    def sample(self, seed: int) -> BilevelProblem:
        return BilevelProblem(
            init=lambda hparams: torch.zeros(()),
            batch=no_data,
            step=lambda x, hparams, batch: x,
            outer_loss=lambda x, hparams: self.of(hparams["at"]),
        )


def looked(task: Function, *found: tuple[float, float | None]) -> list[Report]:
    """Reports of the looks, where these points and slopes were found before."""
    descent: HyperDescent = OfflineDescent(
        problem=task.sample(0),
        coordinates=Coordinates(task.space),
        estimator=Reverse(1),
        horizon=1,
        budget=math.inf,
        seed=0,
        hyper_lr=None,
    )
    for at, slope in found:
        x = torch.tensor([at])
        gradient = None if slope is None else torch.tensor([slope])
        descent._recorded(x, float(task.of(x)), 1, gradient)
    return list(descent._look_beside())


def valley_and_needle(x: Tensor) -> Tensor:
    """0.5 in a valley at −1; 0 within 0.01 of 1, 4.5 beside it."""
    return torch.where((x - 1).abs() < 0.01, 0.0, 0.5 + (x + 1).square())


def test_both_sides_are_looked_at_where_e_is_flat():
    reports = looked(Function(of=lambda x: x.square()), (0.0, 1.0))
    assert [r.offset for r in reports] == [-BESIDE, BESIDE]
    assert [r.hparams["at"] for r in reports] == pytest.approx([-0.03, 0.03])
    assert [r.outer_loss for r in reports] == pytest.approx([9e-4, 9e-4])


def test_a_better_side_is_the_result():
    result = optimize(Function(of=lambda x: x), Reverse(1), progress=False)
    assert result.reports[-2].offset == -BESIDE
    assert result.outer_loss == result.reports[-2].outer_loss


def test_beyond_the_bounds_there_is_no_side():
    reports = looked(Function(of=lambda x: x, low=0.0), (0.0, 1.0))
    assert [r.hparams["at"] for r in reports] == pytest.approx([0.03])


def test_a_lucky_point_gives_way_to_another_that_is_good_nearby_too():
    found = [(0.0, None), (-1.0, None), (-1.2, None), (1.0, 1.0)]
    *looks, last = looked(Function(of=valley_and_needle), *found)
    assert [r.outer_loss for r in looks] == pytest.approx([4.3809, 4.6209])
    assert (last.returned, last.outer_loss, last.complete) == (True, 0.5, True)
    assert last.gradient_evals == looks[-1].gradient_evals  # known, so not charged
    assert not any(r.returned for r in looks)


@pytest.mark.parametrize(
    "others",
    [
        [0.0, -1.0],  # what lies near −1 was never seen
        [0.995, -1.0, -1.2],  # the start is the needle, and lower than all
    ],
)
def test_it_stays_where_no_other_is_confirmed(others):
    found = [(at, None) for at in others]
    reports = looked(Function(of=valley_and_needle), *found, (1.0, 1.0))
    assert not any(r.returned for r in reports)


def test_a_result_has_the_profile_and_the_frame_what_was_known_of_slopes():
    task = Function(of=lambda x: (x - 3).square() + 1)
    result = optimize(task, Reverse(1), progress=False)
    assert set(result.profile) >= {-BESIDE, 0.0, BESIDE}
    assert min(result.profile.values()) == result.outer_loss
    last = result.frame.iloc[-2]
    assert last["agreement"] == pytest.approx(1, abs=0.3)
    assert 0 <= last["rejected"] < 1
    assert result.reports[-1].gradient_evals <= task.budget


def test_a_small_budget_has_none_to_spare_for_looks():
    task = Function(of=lambda x: (x - 3).square() + 1)
    assert optimize(task, Reverse(1), budget=9 * (1 + 1 / 3)).profile == {}
