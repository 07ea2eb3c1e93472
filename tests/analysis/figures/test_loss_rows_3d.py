"""The row of loss curves in three dimensions."""

import math

import numpy as np
import pandas as pd
import pytest

from raymeta.analysis import (
    draw_curve_row,
)
from tests.support.drawn import lines_of


def test_two_of_a_kind_are_followed_and_equal_ones_once(surface, walks):
    whole = walks[walks["method"] == "long_term"]
    losses = ["outer_loss", "best_outer_loss"]
    more = [whole.assign(method="same")]  # the same hypergradient
    for number in (1, 2):
        other = whole.assign(method=f"worse_{number}")
        other[losses] = other[losses] + number
        more.append(other)
    axes = draw_curve_row(surface, pd.concat([walks, *more])).axes[0]
    ways = {gid for gid in lines_of(axes) if gid.startswith("way ")}
    assert ways == {"way short_term", "way long_term", "way worse_1"}


def test_the_row_of_curves(surface, walks):
    axes = draw_curve_row(surface, walks).axes[0]
    lines = {gid: line.get_data_3d() for gid, line in lines_of(axes).items()}
    assert [gid for gid in lines if gid.startswith("curve")] == [
        *("curve 0.01000", "curve 0.1000", "curve 1.000")
    ]
    # Momentum .5 is nearest to that of the best run; its diverged curve ends on top.
    steps, depth, loss = (list(values) for values in lines["curve 1.000"])
    assert (steps, depth, loss) == ([0, 1], [0, 0], pytest.approx([1, 1.1]))
    steps, depth, loss = lines["way short_term"]
    assert list(steps) == [20, 40, 60, 80, 100]
    np.testing.assert_allclose(depth, np.log10([0.2, 0.4, 0.6, 0.8, 1.0]))
    np.testing.assert_allclose(loss, [0.9, 0.8, 0.7, 0.65, 0.6])
    steps, depth, loss = lines["way long_term"]
    assert list(steps) == [100, 100, 100]
    np.testing.assert_allclose(loss, [0.9, 1.1, 0.5])  # 1.5 is cut off
    assert "way random" not in lines


@pytest.mark.parametrize(("shift", "height"), [(0.0, math.log10(0.5)), (0.55, -0.05)])
def test_a_walk_below_zero_is_drawn_without_logarithms(surface, walks, shift, height):
    walks["hp/momentum"] = 0.0  # where the row spans two decades
    below = walks.assign(outer_loss=walks["outer_loss"] - shift)
    lines = lines_of(draw_curve_row(surface, below).axes[0])
    heights = lines["way long_term"].get_data_3d()[2]
    assert min(heights) == pytest.approx(height)
