"""Panels, ticks, and labels that do not overlap."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from raymeta.analysis.figures.layout import panels, spread, tick


def test_spread_leaves_labels_that_are_apart():
    assert spread([0.9, 0.1, 0.5], 0.2) == pytest.approx([0.9, 0.1, 0.5])


def test_spread_stacks_crowded_labels_around_their_mean():
    assert spread([0.5, 0.52], 0.1) == pytest.approx([0.46, 0.56])
    assert spread([0.52, 0.5], 0.1) == pytest.approx([0.56, 0.46])


@pytest.mark.parametrize("aims", [[0, 0, 0], [1, 1, 1], [5, -5, 1, 0.98], [0.5] * 30])
def test_spread_stays_inside_and_keeps_the_gap(aims):
    places = np.sort(spread(aims, 0.1))
    gap = min(0.1, 1 / (len(aims) - 1))
    assert (np.diff(places) >= gap - 1e-9).all()
    assert places[0] >= -1e-9
    assert places[-1] <= 1 + 1e-9


def test_spread_of_nothing_is_nothing():
    assert spread([], 0.1) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (20_000, "20,000"),
        (2e6, "2e6"),
        (0.002, "0.002"),
        (0.001, "0.001"),
        (5e-5, "5e-5"),
        (1.5e-4, "1.5e-4"),
        (-3e-4, "-3e-4"),
    ],
)
def test_ticks(value, text):
    assert tick(value) == text


def test_panels_fill_rows():
    figure, axes = panels(5, across=3, width=2, height=1)
    assert isinstance(figure, Figure)
    assert (len(axes), len(figure.axes)) == (5, 5)
    assert figure.get_size_inches().tolist() == [6, 2]
