"""Shares of ranks: what is refused before step 1, and what is not the same.

That estimates are those of one process is in `conformance/test_distributed.py`.
"""

import pytest
import torch

from raymeta.distributed import LostRank, data_parallel
from raymeta.distributed.agreement import telling_lost_ranks
from raymeta.modules.counter_rng import Noise
from raymeta.modules.share import Share, axes_of, sharing
from raymeta.problem import BilevelProblem
from raymeta.testing.distributed import assert_same
from raymeta.testing.ranks import RankFailed, Ranks
from tests.support import on_ranks

pytestmark = pytest.mark.usefixtures("float64")

SAID = {
    "other λ": "^ranks must have the same hyperparameters, but 'lr' is 0.1 on rank 0 "
    "and 1.1 on rank 1",
    "other weights": r"^ranks must have the same initial state.*weight.*manual_seed",
    "other data": r"^ranks must have the same first batch, but '\.data\[0\]'",
    "other code": "^ranks must have the same data and code, but the training loss",
    "weights of classes": "needs an inner loss that is the mean.* but the loss for 8",
    "a sum": "needs an inner loss that is the mean over its examples",
    "contrast": "no examples that depend on one another",
    "a maximum in a buffer": "but a buffer of 'largest' for 6 examples",
    "too few examples": "an example for each of 2 ranks, but the batch of step 0 has 1",
    "no examples": "needs batches with examples in the rows.*but got no tensors",
    "rows of two kinds": r"but got \[3, 8\] rows",
}


@pytest.mark.parametrize("name", on_ranks.MISTAKES)
def test_what_would_not_be_one_training_is_named_on_every_rank(three_ranks, name):
    one, other = three_ranks.run(on_ranks.mistake, name, world=2)
    assert one == other
    with pytest.raises(ValueError, match=SAID[name]):
        raise ValueError(one)


def test_steps_that_are_no_descent_are_refused(tmp_path):
    from torch import distributed as dist

    problem = BilevelProblem(
        init=lambda h: h["a"], step=lambda s, h, b: s, outer_loss=lambda s, h: s
    )
    with pytest.raises(ValueError, match="data_parallel needs a process group"):
        data_parallel(problem)
    meet = f"file://{tmp_path / 'group'}"
    dist.init_process_group("gloo", init_method=meet, rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="needs steps that are gradient descent"):
            data_parallel(problem)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("shape", [(5, 3), (2, 5, 3), (10, 4), (5,)])
@pytest.mark.parametrize("first", [0, 2, 3])
def test_a_share_draws_the_rows_that_the_batch_has_for_it(shape, first):
    t, count, total = torch.tensor(3), 2, 5
    draws = {
        "uniform": lambda noise, shape: noise.uniform(shape),
        "bernoulli": lambda noise, shape: noise.bernoulli(shape, 0.3),
        "bits": lambda noise, shape: noise.bits(shape),
    }
    dim = next(d for d, n in enumerate(shape) if n % 5 == 0)
    each = shape[dim] // 5
    own = tuple(count * each if d == dim else n for d, n in enumerate(shape))
    axes = axes_of(
        {(0, i): own for i in range(3)}, {(0, i): shape for i in range(3)}, 2, 5
    )
    whole, part = Noise(0, t), Noise(0, t)
    rows = [draw(whole, shape) for draw in draws.values()]
    with sharing(Share(first, count, total, lambda x: x, axes)):
        mine = [draw(part, own) for draw in draws.values()]
    for one, other in zip(rows, mine, strict=True):
        assert torch.equal(one.narrow(dim, first * each, count * each), other)


def test_random_tensors_without_a_place_for_examples_are_refused():
    with pytest.raises(
        ValueError, match=r"the shapes \(4, 2\) for 2 examples and \(5, 5\)"
    ):
        axes_of({(0, 0): (4, 2)}, {(0, 0): (5, 5)}, 2, 5)


@pytest.mark.parametrize(
    ("kind", "chunk"),
    [
        ("forward", None),
        ("forward", 3),
        ("es", None),
        ("es-one-by-one", None),
        ("pes", None),
    ],
)
def test_split_estimates_are_those_of_one_process(three_ranks, kind, chunk):
    one = on_ranks.estimate(None, kind, chunk)
    for found in three_ranks.run(on_ranks.estimate, kind, chunk):
        assert_same(found, one)


def test_a_rank_that_dies_in_mid_step_is_told_in_one_line():
    ranks = Ranks(2)
    try:
        with pytest.raises(RankFailed, match="LostRank: a rank died in mid-step"):
            ranks.run(on_ranks.dies, 1)
    finally:
        ranks.close()


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="shapes") as caught, telling_lost_ranks():
        raise RuntimeError("shapes")
    assert not isinstance(caught.value, LostRank)
