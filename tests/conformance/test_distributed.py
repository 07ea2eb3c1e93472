"""Every registered estimator on two and on three ranks, and the others."""

from functools import partial

import pytest

from raymeta.hypergrad import (
    ES,
    PES,
    Checkpointed,
    Reverse,
    Reversible,
    ShortTerm,
    Truncated,
)
from raymeta.hypergrad.registry import ESTIMATORS, by_name
from raymeta.testing.distributed import (
    DistributedConformance,
    convex,
    random_network,
    weighted,
)

CASES = {
    **{name: partial(by_name, name) for name in ESTIMATORS},
    "reverse-higher": partial(Reverse, engine="higher"),
    "reversible-exact": partial(Reversible, fractional_bits=56),
    "truncated-window": partial(Truncated, window=2),
    "short-term": ShortTerm,
    "next-batch": partial(ShortTerm, loss="next_batch"),
    "es": partial(ES, sigma=0.01, pairs=2),
    "pes": partial(PES, sigma=0.01, pairs=2),
    "traced": partial(Reverse, compile=True),
    "traced-checkpointed": partial(Checkpointed, compile=True),
    "traced-short-term": partial(ShortTerm, compile=True),
    "traced-es": partial(ES, sigma=0.01, pairs=2, compile=True),
}


@pytest.mark.slow
class TestOnRanks(DistributedConformance):
    @pytest.fixture(params=CASES)
    def name(self, request):
        return request.param

    @pytest.fixture
    def make(self, name):
        return CASES[name]

    @pytest.fixture
    def ranks(self, three_ranks):
        return three_ranks

    @pytest.fixture
    def examples(self, name):
        if name in ("implicit", "soba"):  # want a minimum
            return (convex,)
        # The one cannot undo a batch norm, to trace the other again takes long.
        if name.startswith("reversible") or name == "forward_online":
            return (weighted,)
        return weighted, random_network
