"""Trees are taken apart and put together as torch does it, but faster."""

from collections import OrderedDict, defaultdict, deque, namedtuple
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils import _pytree

from raymeta._tree import flatten, tree_leaves, unflatten


class Pair(NamedTuple):
    one: Any
    two: Any


Old = namedtuple("Old", ["one"])
TREES: list[Any] = [
    torch.ones(2),
    None,
    (),
    {},
    [1, (2.0, "three"), [None]],
    {"b": 1, "a": {"c": Pair(2, ())}},
    Old(Pair([3], {"x": 4})),
    OrderedDict(b=1, a=[2]),
    defaultdict(list, {"k": [1, 2]}),
    deque([1, (2, 3)], maxlen=4),
    torch.Size([2, 3]),
    {1, 2},
]


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_the_leaves_are_torchs_and_the_tree_comes_back(tree):
    leaves, spec = flatten(tree)
    truth, true_spec = _pytree.tree_flatten(tree)
    assert len(leaves) == len(truth)
    assert all(x is y for x, y in zip(leaves, truth, strict=True))
    assert tree_leaves(tree) == leaves
    again, true_again = (
        unflatten(leaves, spec),
        _pytree.tree_unflatten(truth, true_spec),
    )
    assert type(again) is type(true_again)
    assert str(again) == str(true_again)


def test_what_a_container_is_may_be_registered_at_any_time():
    class Box:
        def __init__(self, value: Any) -> None:
            self.value = value

    box = Box([1, 2])
    assert flatten(box) == ([box], None)
    _pytree.register_pytree_node(Box, lambda b: ([b.value], None), lambda v, _: Box(*v))
    leaves, spec = flatten(box)
    assert leaves == [1, 2]
    assert unflatten([3, 4], spec).value == [3, 4]
