"""The loss figure of a meta-training run."""

import math

import pytest

from raymeta.analysis import (
    draw_meta_loss,
)


def test_the_loss_figure(training):
    left, right, below, beside = draw_meta_loss(training).axes
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert names == ["training tasks", "validation tasks"]
    assert left.lines[0].get_xydata()[1].tolist() == [5.5, 55.5]
    (points, *_), *_ = (c.lines for c in right.containers)
    assert points.get_ydata().tolist() == pytest.approx([3.0, 1.5, 1.0])
    (median,) = [line for line in right.lines if line.get_label() == "median"]
    (trained,) = [line for line in right.lines if line.get_linestyle() == ":"]
    assert median.get_ydata().tolist() == pytest.approx([1.5, 0.75, 0.5])
    assert trained.get_xdata() == [1, 1]
    assert below.get_ylabel() == "accuracy"
    assert below.lines[0].get_ydata().tolist() == [0.5] * 50
    assert beside.lines[0].get_ydata().tolist() == [0.5] * 3


def test_a_published_figure_is_drawn_beside_the_losses(training, published):
    left, right, *metric = draw_meta_loss(training, [published]).axes
    (line,) = [line for line in left.lines if line.get_linestyle() == "--"]
    assert line.get_ydata() == [1.4, 1.4]
    (band,) = left.patches
    assert (band.get_y(), band.get_height()) == pytest.approx((1.2, 0.4))
    assert line.get_label() == (
        "Someone 2019, table 1:\n1.4 ± 0.2 after 5,000 outer steps"
    )
    (mark,) = [line for line in right.lines if line.get_marker() == "D"]
    assert mark.get_xydata().tolist() == [[1, 1.4]]
    assert not any(axes.patches for axes in metric)


def test_tasks_that_diverge_do_not_flatten_the_figure(training):
    is_last = (training["split"] == "test") & (training["inner_steps"] == 2)
    training.loc[is_last, "outer_loss"] = 1e9
    right = draw_meta_loss(training).axes[1]
    assert right.get_ylim()[1] < 10
    assert right.get_title(loc="right") == "the mean leaves the panel: tasks diverge"


def test_a_run_without_a_finite_loss_says_so(training):
    lost = training.assign(outer_loss=math.nan, median=math.nan)
    left, right, *_ = draw_meta_loss(lost).axes
    for axes in (left, right):
        assert [t.get_text() for t in axes.texts] == ["no finite value was reported"]


def test_a_run_that_has_just_begun_is_drawn(training):
    for frame in (training.iloc[:0], training.iloc[:4]):
        left, right, *_ = draw_meta_loss(frame).axes
        assert [t.get_text() for t in right.texts] == ["not evaluated yet"]
        assert len(left.lines) == bool(len(frame))
