"""Numbers as text."""

import numpy as np
import pytest

from raymeta.analysis.tables.text import (
    align,
    number,
    per_cent,
    ratio,
    shorten,
    span,
    visible,
)

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (NAN, "\N{EN DASH}"),
        (INF, "∞"),
        (0.0, "0"),
        (0.12345, "0.1235"),
        (12.5, "12.50"),
        (99.996, "100"),
        (1234.5, "1,234"),
        (99_999, "99,999"),
        (1_234_567, "1.23e6"),
        (3.2e-5, "3.2e-5"),
        (-0.5, "-0.5000"),
    ],
)
def test_numbers_as_text(value, text):
    assert number(value) == text


def test_shares_ratios_intervals_and_names_as_text():
    assert (per_cent(0.96125), per_cent(NAN)) == ("96.12%", "\N{EN DASH}")
    assert ratio(1, 4) == "0.25\N{MULTIPLICATION SIGN}"
    assert {ratio(1, 0), ratio(INF, 4), ratio(1, NAN)} == {"\N{EN DASH}"}
    assert (span(1, 2), span(NAN, 2)) == ("1.000\N{EN DASH}2.000", "\N{EN DASH}")
    assert (shorten("forward", 7), shorten("forward", 6)) == ("forward", "forwa…")
    assert align({"a": ["x", "yyy"], "b": ["10", "1"]}) == ["x    10", "yyy   1"]


def test_what_cannot_be_seen_stands_as_its_code():
    assert visible("a\x01\u202eb\ud800\ufeff") == r"a\u0001\u202eb\ud800\ufeff"
    assert visible("η $x$\n\t–\u00a0é") == "η $x$\n\t–\u00a0é"
