"""The figure of a diagnosis, from its record alone."""

import pytest

from raymeta.analysis import draw_diagnosis
from raymeta.analysis.figures.diagnosis import profile

RECORD = {
    "task": "mine",
    "line": "trust with care: something",
    "outer_loss": 1.0,
    "step": 0.1,
    "horizon": 4,
    "slopes": [
        {
            "along": "gradient",
            "exact": 2.0,
            "difference": -1.0,
            "below": 1.1,
            "above": 0.9,
        }
    ],
    "times": [0, 2, 4],
    "adjoint": [8.0, 2.0, None],
    "tangent": [0.0, 1.0, 2.0],
    "exponent": 0.3,
}


def lines(axes):
    return {line.get_gid(): line for line in axes.lines}


def test_the_profile_has_the_runs_and_both_slopes():
    found = profile(RECORD)
    assert found.x.tolist() == [-0.1, 0.0, 0.1]
    assert found.outer_loss.tolist() == [1.1, 1.0, 0.9]
    assert found.tangent == pytest.approx([0.8, 1.0, 1.2])
    assert found.chord == pytest.approx([1.1, 1.0, 0.9])
    left, right = draw_diagnosis(RECORD).axes
    assert lines(left)["exact"].get_ydata() == pytest.approx(found.tangent)
    assert lines(right)["adjoint"].get_xydata().tolist() == [[0, 8], [2, 2]]
    assert lines(right)["tangent"].get_xydata().tolist() == [[2, 1], [4, 2]]


def test_what_diverged_has_a_figure_that_says_so():
    record = {**RECORD, "slopes": [], "times": [], "adjoint": [], "tangent": []}
    figure = draw_diagnosis({**record, "outer_loss": None, "exponent": None})
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert said == ["nothing to differentiate"] * 2
