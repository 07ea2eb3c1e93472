"""Frames of a folder that has more than is shown."""

import pandas as pd
import pytest

from raymeta.results import schema
from raymeta.results.together import joined
from raymeta.search.whole_frame import of_studies


def rows(task, **columns):
    base = {"task": task, "method": "m", "seed": 0, "test_loss": 0.5}
    return pd.DataFrame([base | columns])


def test_columns_of_both_and_words_where_one_has_words():
    one = rows("a", **{"test_loss": 0.5, "hp/lr": 0.1, "hp/kind": 2.0})
    other = rows("b", **{"test_error": 0.2, "hp/kind": "plain"})

    whole = joined([one, other])

    expected = ["task", "method", "seed", "test_loss", "test_error", "hp/lr", "hp/kind"]
    assert list(whole) == expected
    assert whole["hp/kind"].tolist() == ["2.0", "plain"]
    assert whole["hp/lr"].tolist() == pytest.approx([0.1, float("nan")], nan_ok=True)
    assert whole.attrs[schema.KEY] == schema.VERSION


def test_studies_and_the_columns_that_these_use():
    one, other = rows("a", **{"hp/lr": 0.1}), rows("b", **{"hp/width": 3.0})
    whole = joined([one, other])

    part = of_studies(whole, {"b/m/0"})

    pd.testing.assert_frame_equal(part, other, check_like=True)
    assert of_studies(whole, {"a/m/0", "b/m/0", "c/m/1"}) is whole
    assert of_studies(whole, {"c/m/1"}).empty
