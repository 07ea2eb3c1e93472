"""Loss curves, one for each outer step."""

import pytest

from raymeta.analysis import draw_loss_curves
from raymeta.analysis.tables.loss_curves import loss_curves


def test_curves_are_split_sorted_and_finite(curves):
    split = {step: line.tolist() for step, line in loss_curves(curves).items()}
    assert split == {
        0: [[0, 1.0], [10, 0.8]],
        1: [[0, 1.0]],
        2: [[0, 1.0], [10, 0.4]],
        3: [],
    }


def test_missing_columns_are_named(curves):
    with pytest.raises(
        ValueError, match=r"got outer_step, inner_steps: add outer_loss"
    ):
        draw_loss_curves(curves.drop(columns="outer_loss"))
