"""The figure of performance profiles."""

import numpy as np

from raymeta.analysis import draw_performance_profile, performance_profile


def test_a_staircase_for_each_method(frame):
    axes = draw_performance_profile(frame).axes[0]
    lines = {line.get_gid(): line for line in axes.lines}
    assert set(lines) == {"profile forward", "profile tpe", "profile random"}
    expected = performance_profile(frame)
    tpe = expected[expected["method"] == "tpe"]
    drawn = lines["profile tpe"]
    np.testing.assert_array_equal(drawn.get_xdata()[:-1], tpe["ratio"])
    np.testing.assert_array_equal(drawn.get_ydata()[:-1], tpe["share"])


def test_without_a_target_it_says_so(frame):
    axes = draw_performance_profile(frame[frame["method"] == "forward"]).axes[0]
    (note,) = axes.texts
    assert "no method reached a target" in note.get_text()
