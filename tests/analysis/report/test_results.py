"""Tables of results."""

import numpy as np
import pytest

from raymeta.analysis.report.results import signed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "+0.5000"),
        (-0.5, "−0.5000"),
        (0.0, "0"),
        (np.nan, "–"),
        (-1e-6, "−1.0e-6"),
    ],
)
def test_differences_have_signs(value, text):
    assert signed(value) == text
