"""Figures of the loss over two hyperparameters, and of curves that improve."""

from raymeta.analysis import (
    draw_surface,
)
from tests.support.drawn import lines_of


def test_ways_on_the_surface(surface, walks):
    axes = draw_surface(surface, walks).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    lines = lines_of(axes)
    assert lines["way long_term"].get_xdata().tolist() == [0.01, 0.02, 0.2, 0.05]
    assert lines["best long_term"].get_xydata().tolist() == [[0.05, 0.4]]
    assert lines["way random"].get_xydata().tolist() == [[0.5, 0.3]]
    assert len(lines["dots random"].get_xdata()) == 2
    assert lines["way random"].is_dashed()
    assert not lines["way long_term"].is_dashed()


def test_ways_are_those_of_the_surfaces_seed(surface, walks):
    axes = draw_surface(surface, walks.assign(seed=1)).axes[0]
    assert lines_of(axes) == {}
