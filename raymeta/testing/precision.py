"""Double precision, in which derivatives are compared."""

from collections.abc import Iterator

import pytest
import torch


class DoublePrecision:
    """Tests with float64 as torch's default dtype."""

    @pytest.fixture(autouse=True)
    def _double_precision(self) -> Iterator[None]:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(before)
