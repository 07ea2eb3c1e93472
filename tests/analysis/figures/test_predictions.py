"""Pictures of what a meta-learner has learnt."""

import numpy as np
import pytest

from raymeta.analysis import (
    draw_pictures,
)
from tests.support.drawn import images


def sinusoids():
    return {
        "kind": np.array("sinusoids"),
        "x": np.linspace(-5, 5, 11),
        "truth": np.ones((4, 11)),
        "support_x": np.zeros((4, 3)),
        "support_y": np.full((4, 3), 2.0),
        "steps": np.array([0, 1]),
        "fitted": np.stack([np.zeros((4, 11)), np.full((4, 11), 0.5)]),
    }


def dataset():
    return {
        "kind": np.array("dataset"),
        "first": np.array([[1.0, 2.0], [-1.0, 0.0]]),
        "points": np.array([[0.5, 0.0], [-0.5, 0.0]]),
        "labels": np.array([0, 1]),
        "steps": np.array([0, 3]),
        "w": np.array([[[2.0, 0.0]], [[0.0, 1.0]]]),
        "b": np.array([[-0.5], [0.1]]),
    }


def reconstructions():
    truth = np.full((2, 4, 4, 3), 0.5)
    return {
        "kind": np.array("reconstructions"),
        "truth": truth,
        "steps": np.array([0, 3]),
        "fitted": np.stack([truth + 0.1, truth + 0.01]),
    }


def test_sinusoids_before_and_after():
    axes = draw_pictures(sinusoids()).axes
    assert len(axes) == 4
    truth, before, after, support = (line.get_ydata() for line in axes[0].lines)
    assert (truth[0], before[0], after[0], support[0]) == (1, 0, 0.5, 2)
    labels = [line.get_label() for line in axes[0].lines]
    assert labels == ["true curve", "before adaptation", "after 1 step", "support"]


def test_the_lines_of_classifiers_are_where_they_decide():
    first, before, after = draw_pictures(dataset()).axes
    assert not first.lines
    assert first.collections[0].get_offsets().tolist() == [[1.0, 2.0]]
    assert after.collections[1].get_offsets().tolist() == [[-0.5, 0.0]]
    assert before.lines[0].get_xdata() == pytest.approx([0.25, 0.25])  # 2x - .5 = 0
    assert after.lines[0].get_ydata() == pytest.approx([-0.1, -0.1])
    assert after.get_title(loc="left") == "learnt, after 3 steps"


def test_reconstructions_say_their_error_in_decibel():
    axes = draw_pictures(reconstructions()).axes
    assert len(axes) == 6
    assert [a.get_xlabel() for a in axes[:3]] == ["", "20.0 dB", "40.0 dB"]


def test_images_carry_their_class():
    axes = draw_pictures(images()).axes
    assert [a.get_title(loc="left") for a in axes] == list("0123456789")


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="but got 'poems'"):
        draw_pictures({"kind": np.array("poems")})
