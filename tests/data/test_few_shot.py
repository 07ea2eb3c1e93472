"""N-way K-shot tasks, on images whose pixels say which they are."""

import math
from dataclasses import replace

import pytest
import torch

from raymeta.data import FewShot, LabelledImages, digits, few_shot_digits
from raymeta.data.episodes import SPLITS

CLASSES = {"train": (0, 7, 2, 5), "val": (1, 3, 4), "test": (6, 8, 9)}


def collection(sizes=range(9, 19), dtype=torch.float32):
    """Ten classes of 9 to 18 images; image i has the value i + 1 everywhere."""
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(sizes)])
    labels = labels[torch.randperm(len(labels), generator=torch.manual_seed(0))]
    images = torch.arange(1, len(labels) + 1).to(dtype)
    names = tuple(f"c{i}" for i in range(10))
    return LabelledImages(
        images[:, None, None, None].repeat(1, 1, 2, 2), labels, names, "toys"
    )


def family(**knobs):
    knobs = dict(classes=CLASSES, data=collection(), ways=3, shots=4, queries=5) | knobs
    return FewShot(name="toys", **knobs)


def episode(family, split="train", tasks=300, step=0):
    return family.episodes(step, tasks, 0, tasks, seed=3, split=split)


def identities(examples):
    """Which image each example is; -1 for padding."""
    assert (examples.inputs == examples.inputs[..., :1, :1, :1]).all()
    return examples.inputs[..., 0, 0, 0].round().long() - 1


@pytest.mark.parametrize("split", SPLITS)
def test_tasks_hold_n_classes_of_k_and_q_different_images(split):
    data = collection()
    support, query = episode(family(data=data), split)
    assert support.inputs.shape == (300, 12, 1, 2, 2)
    assert query.inputs.shape == (300, 15, 1, 2, 2)
    assert support.weight.min() == query.weight.min() == 1
    used = set()
    for task in range(300):
        index = torch.cat([identities(support)[task], identities(query)[task]])
        targets = torch.cat([support.targets[task], query.targets[task]])
        assert len(index.unique()) == 27
        labels = [data.labels[index[targets == way]].unique() for way in range(3)]
        assert all(len(way) == 1 for way in labels)
        assert len(set(map(int, labels))) == 3
        assert targets.bincount().tolist() == [9, 9, 9]
        used |= set(map(int, labels))
    assert used == set(CLASSES[split])


def test_classes_and_images_are_drawn_uniformly_in_random_order():
    data, tasks = collection(), 3000
    support, query = episode(family(data=data, ways=2), tasks=tasks)
    first = data.labels[identities(support)[:, 0]]
    second = data.labels[identities(support)[:, 4]]
    # A count of n tries has standard deviation √(n p (1 - p)).
    pairs = (10 * first + second).unique(return_counts=True)[1]
    assert len(pairs) == 12
    spread = math.sqrt(tasks / 12 * 11 / 12)
    assert (pairs - tasks / 12).abs().max() < 4 * spread
    # Class 0 has 9 images: each is any of the 4 + 5 as often as another.
    for place in (support, query):
        mine = identities(place)[:, :4][first == 0]
        counts = mine.flatten().unique(return_counts=True)[1]
        expected = mine.numel() / 9
        assert len(counts) == 9
        assert (counts - expected).abs().max() < 4 * math.sqrt(expected)


def test_uneven_shots_are_padded_with_nothing():
    tasks, data = 2000, collection()
    family_ = family(data=data, shots=(2, 4))
    support, query = episode(family_, tasks=tasks)
    weight = support.weight.view(tasks, 3, 4)
    given = weight.sum(-1).long()
    # Real examples first, then padding.
    assert torch.equal(weight, (torch.arange(4) < given[..., None]).float())
    present = support.weight == 1
    assert (identities(support)[~present] == -1).all()
    assert (support.targets[~present] == 0).all()
    assert torch.equal(
        support.targets[present],
        torch.arange(3).repeat_interleave(4).expand(tasks, 12)[present],
    )
    counts = given.flatten().bincount()
    n, p = 3 * tasks, 1 / 3
    assert counts[:2].tolist() == [0, 0]
    assert (counts[2:] - n * p).abs().max() < 4 * math.sqrt(n * p * (1 - p))
    # Each class has its own number.
    assert abs(torch.corrcoef(given.T.double())[0, 1]) < 4 / math.sqrt(tasks)
    # Beside the padding, the tasks are those of even shots.
    even_support, even_query = episode(replace(family_, shots=4), tasks=tasks)
    assert torch.equal(even_support.inputs[present], support.inputs[present])
    assert torch.equal(even_query.inputs, query.inputs)
    assert query.weight.min() == 1


def test_a_range_of_one_number_is_that_number():
    ranged, fixed = family(shots=(4, 4)), family(shots=4)
    for a, b in zip(episode(ranged), episode(fixed), strict=True):
        assert all(map(torch.equal, a, b))


def test_bytes_become_shares_of_one():
    data = collection()
    as_bytes = data._replace(images=data.images.byte())
    floats, scaled = episode(family(data=data)), episode(family(data=as_bytes))
    torch.testing.assert_close(floats.query.inputs / 255, scaled.query.inputs)


def test_digits_are_real_and_split_by_class():
    images, labels = digits()
    label_of = {tuple(x): int(y) for x, y in zip(images.tolist(), labels, strict=True)}
    seen = {}
    for split in SPLITS:
        support, query = episode(few_shot_digits(), split, tasks=20)
        assert support.inputs.shape == (20, 15, 1, 8, 8)
        assert query.inputs.shape == (20, 45, 1, 8, 8)
        rows = query.inputs.flatten(0, 1).flatten(1).tolist()
        seen[split] = {label_of[tuple(row)] for row in rows}
    assert seen == {"train": {0, 1, 2, 3}, "val": {4, 5, 6}, "test": {7, 8, 9}}


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"ways": 1}, "ways >= 2.* but got ways=1, shots=4, queries=5"),
        ({"shots": 0}, "but got ways=3, shots=0"),
        ({"shots": (3, 2)}, r"but got ways=3, shots=\(3, 2\)"),
        ({"shots": (0, 2)}, r"but got ways=3, shots=\(0, 2\)"),
        ({"queries": 0}, "queries=0"),
        (
            {"ways": 4},
            r"4-way tasks need 4 classes in each split, but toys has 4 \+ 3 \+ 3 for "
            r"train \+ val \+ test: lower ways or give more classes",
        ),
        (
            {"classes": CLASSES | {"val": (1, 7, 2)}},
            r"the splits of toys share classes \['c2', 'c7'\]: give each to one",
        ),
        (
            {"shots": 8},
            r"shots \+ queries = 13 examples, but 4 of 10 in toys have fewer: "
            r"c0 \(9\), c1 \(10\), c2 \(11\), …; lower shots or queries",
        ),
        (
            {"shots": (1, 5)},
            r"= 10 examples, but 1 of 10 in toys have fewer: c0 \(9\);",
        ),
        (
            {"data": collection()._replace(names=tuple("abcdefghi"))},
            r"a label of 0 … 8, but toys has 135 images and 135 labels of 0 … 9",
        ),
        (
            {"data": collection()._replace(images=torch.zeros(9, 1, 2, 2))},
            "toys has 9 images and 135 labels",
        ),
    ],
)
def test_tasks_that_cannot_be_are_refused(knobs, said):
    with pytest.raises(ValueError, match=said):
        family(**knobs)


def test_four_way_digits_are_refused():
    with pytest.raises(ValueError, match=r"scikit-learn's digits has 4 \+ 3 \+ 3"):
        few_shot_digits(ways=4)
