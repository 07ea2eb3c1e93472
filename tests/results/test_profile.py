"""Profiles of frames: which point was looked at, and what lies beside it."""

import math

import pandas as pd
import pytest

from raymeta.results.profile import is_sharp, profile_of, sentence

NAN = math.nan


def study(*rows: tuple[float, float, float]) -> pd.DataFrame:
    """Full runs: outer loss, the lowest that stands, offset; and the final look."""
    names = ["outer_loss", "best_outer_loss", "offset"]
    frame = pd.DataFrame(rows, columns=names).assign(status="complete")
    return pd.concat([frame, frame.tail(1).assign(status="final", offset=NAN)])


def test_a_profile_is_of_the_best_point_before_the_looks():
    rows = study(
        (9.0, 9.0, NAN), (1.0, 1.0, NAN), (2.0, 1.0, NAN),
        (0.9, 0.9, -0.03), (NAN, 0.9, 0.03), (0.8, 0.8, -0.06),
    )  # fmt: skip
    profile = {-0.06: 0.8, -0.03: 0.9, 0.0: 1.0, 0.03: math.inf}
    assert profile_of(rows) == profile
    assert list(profile_of(rows)) == sorted(profile)


def test_it_is_of_the_lucky_point_where_another_is_returned():
    rows = study((1.2, 1.2, NAN), (1.0, 1.2, NAN), (2.0, 1.2, -0.03), (2.1, 1.2, 0.03))
    assert profile_of(rows) == {-0.03: 2.0, 0.0: 1.0, 0.03: 2.1}


def test_there_is_none_without_looks_and_in_older_frames():
    rows = study((1.0, 1.0, NAN))
    assert profile_of(rows) == profile_of(rows.drop(columns="offset")) == {}
    # Nor where nothing lies beside, or the point is not known.
    assert profile_of(study((1.0, 1.0, NAN), (1.0, 1.0, 0.0))) == {}
    assert profile_of(study((1.0, 1.0, 0.0))) == {}
    assert profile_of(study((NAN, NAN, NAN), (1.0, 1.0, 0.03))) == {}


@pytest.mark.parametrize(
    ("beside", "verdict"), [(0.61, "flat"), (0.64, "sharp"), (math.inf, "sharp")]
)
def test_a_point_is_sharp_where_a_tenth_of_what_was_gained_is_lost_beside(
    beside, verdict
):
    profile = {-0.03: 0.61, 0.0: 0.6, 0.03: beside}
    assert is_sharp(profile, start=0.9) == (verdict == "sharp")
    said = f"outer loss 0.6, beside it 0.61 and {beside:.4g}: a {verdict} point"
    assert sentence(profile, start=0.9, returned=0.6).startswith(said)
    assert "lucky" in sentence(profile, start=0.9, returned=0.61)
