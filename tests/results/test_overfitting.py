"""The rule that tells an overfitted validation set, and what it says of frames."""

import math

import pandas as pd
import pytest

from raymeta.results.overfitting import Losses, overfitted, overfitting

HELD = {"standard_error": 0.01, "start_holdout": 0.3}


@pytest.mark.parametrize(
    ("losses", "text"),
    [
        # Held back: it fell with the outer loss, rose, or became no number at all.
        (Losses(0.3, 0.1, **HELD, holdout=0.2), ""),
        (Losses(0.3, 0.1, **HELD, holdout=0.2, test=9.0), ""),
        (Losses(0.3, 0.1, **HELD, holdout=0.4), "from 0.3 to 0.4 on validation data h"),
        (Losses(0.3, 0.1, **HELD, holdout=math.inf), "from 0.3 to inf on validation"),
        (Losses(0.3, 0.299, **HELD, holdout=0.4), ""),  # nothing was learnt
        # A test set: within 3 √2 standard errors, or below the start, or beyond both.
        (Losses(0.3, 0.1, 0.06, test=0.35), ""),
        (Losses(0.3, 0.1, 0.01, test=0.29), ""),
        (Losses(0.3, 0.1, 0.01, test=0.35), "but the test loss is 0.35: the validat"),
        (Losses(0.3, 0.0, 0.0, test=7.08), "E fell from 0.3 to 0, but the test loss i"),
        (Losses(0.3, 0.1, test=7.08), ""),  # a test loss of another kind
        # Nothing held back: few examples, or enough; far or a little.
        (Losses(0.3, 0.0, 0.0, examples=53 / 5), "on 10.6 validation examples for eac"),
        (Losses(0.3, 0.0, 0.0, examples=20), ""),
        (Losses(0.3, 0.2, 0.0, examples=1), ""),
        (Losses(math.nan, 0.2), ""),
        (Losses(math.inf, 0.2, 0.01, test=0.3), ""),  # the start diverged
    ],
)
def test_what_was_held_back_decides_then_the_test_loss_then_how_few_there_are(
    losses, text
):
    said = overfitting(losses)
    assert text in said if text else said == ""
    assert "\n" not in said


def test_a_frame_is_told_of_task_by_task():
    def rows(method, seed, holdout):
        about = {"task": "wine", "method": method, "seed": seed}
        return [
            about | {"status": "running", "outer_loss": 0.9, "holdout_loss": 0.4},
            about | {"status": "complete", "outer_loss": 0.3},
            about | {"status": "complete", "outer_loss": 0.1},
            about | {"status": "final", "outer_loss": 0.1, "holdout_loss": holdout},
        ]

    parts = [rows("tpe", 0, 0.6), rows("tpe", 1, 0.2), rows("reverse", 0, 0.5)]
    frame = pd.DataFrame([row for part in parts for row in part])
    (line,) = overfitted(frame)
    assert line.startswith(
        "wine, tpe (seed 0), reverse (seed 0): E fell from 0.3 to 0.1, but from 0.4 to "
        "0.6 on validation data held back"
    )
    assert overfitted(frame.drop(columns="holdout_loss")) == []
    assert overfitted(frame[:3]) == []


def test_a_frame_tells_how_few_examples_there_are_where_nothing_else_was_looked_at():
    about = {"task": "wine", "method": "reverse", "seed": 0}
    frame = pd.DataFrame(
        [
            about | {"status": "complete", "outer_loss": 0.3},
            about | {"status": "complete", "outer_loss": 0.01},
            about | {"status": "final", "outer_loss": 0.01, "examples": 10.6},
        ]
    )
    (line,) = overfitted(frame)
    assert "on 10.6 validation examples for each hyperparameter" in line
    assert overfitted(frame.assign(test_loss=0.02)) == []  # which is below the start
    assert overfitted(frame.drop(columns="examples")) == []  # an older frame
