"""The two conjugate operators: derivatives of all kinds, and who may use them."""

import pytest
import torch

from raymeta.distributed import replicated, summed
from tests.support import on_ranks

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("name", on_ranks.DERIVATIVES)
def test_derivatives_of_a_sum_over_ranks_are_those_of_the_whole(three_ranks, name):
    for split, whole in three_ranks.run(on_ranks.derivatives, name):
        torch.testing.assert_close(split, whole, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("operator", [summed, replicated])
def test_without_a_process_group_one_is_asked_for(operator):
    match = f"^{operator.__name__} needs a process group.*init_process_group"
    with pytest.raises(ValueError, match=match):
        operator(torch.ones(2))


def test_a_group_that_this_process_is_not_of_is_refused(three_ranks):
    said = three_ranks.run(on_ranks.not_of_the_group)
    assert said[0].startswith("summed needs a group that this process is a rank of")
