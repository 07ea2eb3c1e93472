"""What every family must do: the same tasks, however they are asked for."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from sklearn.datasets import load_sample_images

from raymeta._tree import tree_leaves, tree_map
from raymeta.data import (
    FAMILIES,
    FOLDERS,
    DigitBatches,
    DigitFunctions,
    LinearClassifiers,
    PhotographFunctions,
    Sinusoid,
    check_family,
    family,
    few_shot_digits,
    share,
)
from raymeta.data.episodes import SPLITS, Episode, Examples

VARIANTS = {
    **FAMILIES,
    "uneven": lambda: few_shot_digits(ways=2, shots=(1, 5)),
    "few-pixels": lambda: DigitFunctions(support=7),
    "small-patches": lambda: PhotographFunctions(size=5, support=7),
    "five-dimensional": lambda: LinearClassifiers(dimensions=5),
}


@pytest.fixture(params=sorted(VARIANTS))
def any_family(request):
    return VARIANTS[request.param]()


def drawn(one, step=3, count=7, start=0, stop=7, seed=5, split="train"):
    return one.episodes(step, count, start, stop, seed=seed, split=split)


def equal(a, b):
    one, other = tree_leaves(a), tree_leaves(b)
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("split", SPLITS)
def test_tasks_do_not_depend_on_who_draws_them(any_family, split):
    whole = drawn(any_family, split=split)
    for world in (2, 3, 7):
        parts = [
            drawn(any_family, start=start, stop=stop, split=split)
            for start, stop in (share(7, rank, world) for rank in range(world))
        ]
        joined = tree_map(lambda *leaves: torch.cat(leaves), *parts)
        assert type(joined) is Episode
        assert equal(joined, whole)
    # Nor on how many others there are in the step.
    assert equal(drawn(any_family, count=90, split=split), whole)


def test_tasks_differ_by_seed_step_number_and_split(any_family):
    def tasks(**asked):
        return tree_leaves(drawn(any_family, **asked))

    base = tasks()
    assert equal(tasks(), base)
    for other in (tasks(seed=6), tasks(step=4), tasks(split="test")):
        assert not equal(base, other)
    assert any(not x[0].equal(x[1]) for x in base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_have_tasks_first_and_the_default_dtype(any_family, dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        episode = drawn(any_family, start=2, stop=6)
    finally:
        torch.set_default_dtype(before)
    for leaf in tree_leaves(episode):
        assert leaf.shape[0] == 4
        assert leaf.dtype in (dtype, torch.int64)


def test_examples_agree_in_number(any_family):
    for part in drawn(any_family):
        if isinstance(part, Examples):
            sizes = {tuple(x.shape[:2]) for x in part}
            assert len(sizes) == 1
            assert part.weight.sum(1).min() >= 1


@pytest.mark.parametrize("place", [(0, 0), (3, 2), (-1, 2), (0, 8)])
def test_places_that_are_no_tasks_are_refused(any_family, place):
    start, stop = place
    with pytest.raises(ValueError, match=rf"start={start}, stop={stop}, count=7"):
        drawn(any_family, start=start, stop=stop)


def test_unknown_split_is_refused(any_family):
    with pytest.raises(ValueError, match="unknown split 'tset': did you mean 'test'"):
        drawn(any_family, split="tset")


def test_a_family_is_frozen(any_family):
    with pytest.raises(FrozenInstanceError):
        any_family.shots = 3


def test_float64_holds_the_same_tasks_more_exactly(float64):
    precise = [drawn(Sinusoid()), drawn(LinearClassifiers())]
    torch.set_default_dtype(torch.float32)
    rounded = [drawn(Sinusoid()), drawn(LinearClassifiers())]
    assert equal(tree_map(torch.Tensor.float, precise), rounded)


@pytest.mark.parametrize(("count", "world"), [(25, 1), (25, 4), (8, 8), (9, 8)])
def test_shares_are_all_tasks_once_and_nearly_equal(count, world):
    shares = [range(*share(count, rank, world)) for rank in range(world)]
    assert [task for part in shares for task in part] == list(range(count))
    assert {len(part) for part in shares} <= {count // world, -(-count // world)}


def test_a_worker_without_tasks_is_refused():
    with pytest.raises(ValueError, match="got 3 for 4 workers: give more tasks"):
        share(3, 0, 4)


def test_families_by_name():
    for name in FAMILIES:
        one = family(name)
        check_family(one)
        assert name.startswith(one.name)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sinusiod",), "unknown family 'sinusiod': did you mean 'sinusoid'"),
        (("omniglot",), "family 'omniglot' reads images of your own, but got no data"),
        (("sinusoid", "a/b"), "brings its own data, but got data='a/b': leave it out"),
        (("omniglot", "no/where"), "no/where does not exist"),
    ],
)
def test_families_that_cannot_be_had(arguments, said):
    assert {"sinusoid"} <= set(FAMILIES)
    assert set(FOLDERS) == {"omniglot"}
    with pytest.raises(ValueError, match=said):
        family(*arguments)


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (Sinusoid, r"got the class Sinusoid: pass Sinusoid\(\)"),
        (torch.nn.Linear(1, 1), "has no name: add it"),
    ],
)
def test_what_is_no_family_is_refused(thing, said):
    with pytest.raises(ValueError, match=said):
        check_family(thing)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Sinusoid(shots=0), "shots=0, queries=10, grid=None"),
        (lambda: Sinusoid(queries=0), "shots=10, queries=0, grid=None"),
        (lambda: Sinusoid(grid=1), "shots=10, queries=10, grid=1"),
        (lambda: LinearClassifiers(dimensions=0), "dimensions >= 1, but got 0"),
        (lambda: DigitBatches(batch_size=0), "batch_size <= 1078.* but got 0"),
        (lambda: DigitBatches(batch_size=1079), "but got 1079"),
        (lambda: DigitFunctions(support=65), "support <= 64.* support=65: None takes"),
        (lambda: DigitFunctions(support=0), "got support=0"),
        (lambda: PhotographFunctions(size=129), "size <= 128.* got size=129"),
        (lambda: PhotographFunctions(size=1), "got size=1"),
        (lambda: PhotographFunctions(size=4, support=17), "support <= 16"),
    ],
)
def test_sizes_that_cannot_be(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_digit_batches_are_real_images_of_one_split():
    seen = {}
    for split in SPLITS:
        support, query = drawn(DigitBatches(batch_size=100), split=split)
        assert support == ()
        assert query.weight.min() == 1
        rows = [tuple(row) for row in query.inputs[0].flatten(1).tolist()]
        # Without replacement (no two of the 1,797 images are equal).
        assert len(set(rows)) == len(rows)
        seen[split] = set(rows)
    assert [len(seen[split]) for split in SPLITS] == [100, 359, 360]
    assert not seen["train"] & seen["val"]
    assert not seen["test"] & (seen["train"] | seen["val"])
    # All images of the split in each task: the labels are the data set's own.
    counts = query.targets.sort().values
    assert (counts == counts[0]).all()


def test_digit_functions_are_the_images_pixel_by_pixel():
    _, query = drawn(DigitFunctions(), split="test")
    images = query.targets.view(7, 8, 8)
    _, whole = drawn(DigitBatches(), split="test")
    known = {tuple(x) for x in whole.inputs[0].flatten(1).tolist()}
    assert {tuple(x) for x in images.flatten(1).tolist()} <= known
    # The corners, row by row: (row, column) from -1 to 1, every step 2/7.
    assert query.inputs[0, [0, 7, 56, 63]].tolist() == [
        [-1, -1],
        [-1, 1],
        [1, -1],
        [1, 1],
    ]
    assert query.inputs[0, 9].tolist() == pytest.approx([-5 / 7, -5 / 7])


def test_support_pixels_are_different_pixels_of_the_query():
    family = PhotographFunctions(size=6, support=20)
    support, query = drawn(family, split="val")
    for task in range(7):
        rows = ((support.inputs[task] + 1) * 2.5).round().long()
        index = rows[:, 0] * 6 + rows[:, 1]
        assert len(index.unique()) == 20
        assert torch.equal(query.inputs[task, index], support.inputs[task])
        assert torch.equal(query.targets[task, index], support.targets[task])


@pytest.mark.parametrize(
    ("split", "first", "last"),
    [("train", 0, 383), ("val", 384, 511), ("test", 512, 639)],
)
def test_patches_lie_in_their_columns_and_reach_all_of_them(split, first, last):
    family = PhotographFunctions(size=16)
    query = drawn(family, count=3000, stop=3000, split=split).query
    patches = (query.targets * 255).round().byte().view(-1, 16, 16, 3)
    photographs = [torch.tensor(image) for image in load_sample_images().images]
    found = [places(patch, photographs) for patch in patches[:40]]
    # In smooth sky a patch may occur twice: one of its places must be in the split.
    for near in found:
        assert any(first <= column <= last - 15 for _, _, column in near)
    alone = [near[0] for near in found if len(near) == 1]
    assert {which for which, _, _ in alone} == {0, 1}
    assert (
        max(c for _, _, c in alone) - min(c for _, _, c in alone) > (last - first) / 2
    )


def places(patch, photographs):
    """(photograph, row, column) of every occurrence of a patch."""
    found = []
    for which, photograph in enumerate(photographs):
        corner = (photograph[:-15, :-15] == patch[0, 0]).all(-1).nonzero()
        found += [
            (which, row, column)
            for row, column in corner.tolist()
            if photograph[row : row + 16, column : column + 16].equal(patch)
        ]
    return found
