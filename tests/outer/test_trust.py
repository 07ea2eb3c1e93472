"""How far values confirm slopes: known functions, along known steps."""

import math

import pytest
import torch

from raymeta.outer.trust import KEPT, Evaluated, TrustRecord

pytestmark = pytest.mark.usefixtures("float64")

STEPS = [0.0, 1.0, 1.5, 0.7, 0.9]


def recorded(value, slope=None, steps=STEPS) -> TrustRecord:
    """A record of E and dE/dx along steps in one coordinate."""
    record = TrustRecord()
    for x in map(torch.tensor, steps):
        gradient = None if slope is None else slope(x).reshape(1)
        record.add(Evaluated(x.reshape(1), float(value(x)), gradient))
    return record


def test_slopes_at_both_ends_tell_a_parabola_without_error():
    trust = recorded(lambda x: (x - 1) ** 2, lambda x: 2 * (x - 1)).trust
    assert trust.agreement == pytest.approx(1)
    assert trust.roughness == pytest.approx(0, abs=1e-12)
    # E is 1, 0, 1/4, 0.09, 0.01: only the first step leads below all before.
    assert trust.rejected == 3 / 4


@pytest.mark.parametrize("factor", [-1.0, 0.1, 2.0])
def test_the_agreement_is_of_actual_by_predicted_changes(factor):
    agreement = recorded(lambda x: factor * x, torch.ones_like).trust.agreement
    assert agreement == pytest.approx(factor)


def test_steps_count_that_have_slopes_at_both_ends():
    record = TrustRecord()
    record.add(Evaluated(torch.tensor([0.0]), 1.0, torch.tensor([-2.0])))
    record.add(Evaluated(torch.tensor([0.5]), 0.25, None))
    assert record.ratios == []
    record.add(Evaluated(torch.tensor([0.5]), 0.25, torch.tensor([-1.0])))
    assert record.ratios == [1.0]


def test_where_values_are_unlike_those_beside_e_is_rough():
    steps = [0.0, 1.0, 1.01, 2.0, 2.01, 3.0, 3.01]
    noise = iter([0.0, 1.0, -1.0, 2.0, -2.0, 1.5, -1.5])
    assert recorded(lambda x: next(noise), steps=steps).trust.roughness > 1
    smooth = recorded(lambda x: torch.floor(x), steps=steps).trust
    assert smooth.roughness < 0.1
    assert math.isnan(smooth.agreement)  # without a slope


def test_a_run_that_diverges_where_e_should_fall_contradicts_without_bound():
    record = TrustRecord()
    record.add(Evaluated(torch.tensor([0.0]), 1.0, torch.tensor([-1.0])))
    record.add(Evaluated(torch.tensor([1.0]), math.inf, torch.tensor([math.nan])))
    assert record.ratios == [-math.inf]
    assert [point.value for point in record.points] == [1.0]
    assert record.trust.rejected == 1


def test_a_point_that_is_seen_again_adds_its_slope_alone():
    record = TrustRecord()
    x = torch.tensor([0.0])
    for gradient in (None, torch.tensor([1.0]), None):
        record.add(Evaluated(x, 1.0, gradient))
    assert record.ratios == []
    assert math.isnan(record.trust.rejected)
    assert record.nearest_slope(torch.tensor([5.0])) == torch.tensor([1.0])


def test_nothing_is_known_at_first_and_only_the_latest_points_are_kept():
    record = TrustRecord()
    assert all(map(math.isnan, record.trust))
    assert record.nearest_slope(torch.zeros(1)) is None
    for i in range(KEPT + 5):
        record.add(Evaluated(torch.tensor([float(i)]), float(i), None))
    assert [point.value for point in record.points] == list(range(5, KEPT + 5))
    assert record.first == 0
