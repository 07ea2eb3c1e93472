"""Parameters that are DTensors: exact, or refused by name."""

import pytest

from raymeta.testing.distributed import assert_same
from tests.support import on_ranks

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("kind", ["reverse", "checkpointed", "truncated", "short_term"])
def test_derivatives_are_summed_over_the_mesh(three_ranks, kind):
    (one,) = three_ranks.run(on_ranks.sharded, kind, False, world=1)
    for found in three_ranks.run(on_ranks.sharded, kind, True, world=2):
        assert_same(found, one)


@pytest.mark.parametrize("kind", ["compiled", "higher", "forward", "implicit", "es"])
def test_what_does_not_take_them_says_so(three_ranks, kind):
    for said in three_ranks.run(on_ranks.sharded, kind, True, world=2):
        assert "cannot take DTensors, but state.params['a'] is one: use Reverse" in said
