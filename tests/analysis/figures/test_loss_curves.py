"""Figures of curves that improve."""

import numpy as np
import pytest

from raymeta.analysis import draw_loss_curves
from raymeta.analysis.figures.loss_curves import y_range


def test_the_figure_has_a_line_per_hyper_step_coloured_in_order(curves):
    figure = draw_loss_curves(curves, title="digits, forward", ylabel="training loss")
    axes, bar = figure.axes
    (lines,) = axes.collections
    assert lines.get_array().tolist() == [0, 1, 2]  # hyper-step 3 has no finite loss
    drawn = [path.vertices.tolist() for path in lines.get_paths()]
    assert drawn[0] == [[0, 1.0], [10, 0.8]]
    assert drawn[2] == [[0, 1.0], [10, 0.4]]
    assert axes.get_title(loc="left") == "digits, forward"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training steps", "training loss")
    assert bar.get_ylabel() == "hyper-step"
    luminance = [
        lines.cmap(lines.norm(s)) @ np.array([0.3, 0.6, 0.1, 0]) for s in (0, 2)
    ]
    assert luminance[0] < luminance[1]  # from dark to light


def test_one_hyper_step_is_enough(curves):
    figure = draw_loss_curves(curves[curves["outer_step"] == 2])
    assert len(figure.axes[0].collections[0].get_paths()) == 1


@pytest.mark.parametrize("kept", [[], [3]])
def test_nothing_finite_is_said(curves, kept):
    figure = draw_loss_curves(curves[curves["outer_step"].isin(kept)])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["no finite loss was reported"]


def test_one_diverging_curve_does_not_set_the_limits():
    usual = [np.array([[0, 2.0], [10, 1.0]])] * 4
    assert y_range(usual) == (1.0, 2.0)
    assert y_range([*usual, np.array([[0, 2.0], [10, 1e9]])]) == (1.0, 2.5)


def test_an_axis_that_is_cut_says_so(curves):
    whole, far = curves[curves["outer_step"] < 3], curves["outer_step"] == 1
    assert draw_loss_curves(whole).axes[0].get_ylabel() == "validation loss"
    diverged = curves.assign(outer_loss=curves["outer_loss"].where(~far, 1e9))
    label = draw_loss_curves(diverged).axes[0].get_ylabel()
    assert label.startswith("validation loss, cut above 1.")
