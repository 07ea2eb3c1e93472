"""The exact sum of values that change one at a time."""

import math

import numpy as np
import pytest

from raymeta.search.study.sums import Sums


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e290])
def test_the_total_is_the_rounded_exact_sum_to_the_bit(scale):
    generator = np.random.default_rng(0)
    sums, values = Sums(), {}
    for number in generator.integers(0, 40, 2000).tolist():
        spread = 10.0 ** generator.integers(-12, 12)
        value = float(generator.standard_normal() * spread * scale)
        if number % 7 == 3:
            sums.drop(number)
            values.pop(number, None)
        else:
            sums.put(number, value)
            values[number] = value
        assert sums.total == math.fsum(values.values())
        assert sums.get(number, 0.5) == values.get(number, 0.5)


def test_what_is_not_finite_goes_when_it_is_replaced():
    sums = Sums()
    sums.put(0, 0.1)
    for odd in (math.nan, math.inf):
        sums.put(1, odd)
        assert sums.total == odd or math.isnan(odd) == math.isnan(sums.total)
    sums.put(1, 0.2)

    assert sums.total == math.fsum([0.1, 0.2])
    sums.drop(1)
    sums.drop(1)
    assert sums.total == 0.1


def test_few_floats_are_kept_however_many_are_added():
    sums = Sums()
    for number in range(5000):
        sums.put(number, 1 / 3 + number % 11 / 7)

    assert len(sums._parts) <= 4


def test_what_is_settled_counts_and_is_not_kept():
    sums = Sums()
    for number, value in enumerate((0.1, 0.2, math.inf)):
        sums.put(number, value)
        sums.settle(number)

    assert sums.total == math.inf
    assert sums.get(0, 0.0) == 0.0
    sums.drop(2)
    assert sums.total == math.fsum([0.1, 0.2])
