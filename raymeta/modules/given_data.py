"""The data given to `module_problem`: which examples a step and an estimate see."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.data import Subset

from raymeta.errors import said
from raymeta.modules.counter_rng import mix
from raymeta.modules.datasets import length
from raymeta.modules.loaders import (
    Loading,
    Order,
    Permuted,
    judged,
    loading,
    say_left_out,
)


class GivenData(NamedTuple):
    """What the arguments of `module_problem` say about data.

    Attributes:
        train: what is trained on.
        val: what the outer loss is about.
        test: held-out data, or None.
        holdout: validation data held back, or None.
        order: which examples a step sees.
        full_batch: whether it is all of them, as they stand.
        size: of a batch, in the mean.
        val_batch_size: of the passes of the outer loss; None for one over all.
        sample: how many validation examples an estimate looks at; None for all.
    """

    train: Loading
    val: Loading
    test: Loading | None
    holdout: Loading | None
    order: Order
    full_batch: bool
    size: float
    val_batch_size: int | None
    sample: int | None


def given_data(
    *,
    train: Any,
    val: Any,
    test: Any,
    holdout: Any,
    batch_size: Any,
    val_batch_size: Any,
    val_batches: Any,
    collate: Callable[[list], Any] | None,
    seed: int,
) -> GivenData:
    """The data of a problem; the arguments are those of `module_problem`.

    Raises:
        ValueError: a data set is empty, or none; sizes do not go with it.
    """
    if collate is not None and not callable(collate):
        raise ValueError(
            f"collate must be a function of a list of examples, but got a "
            f"{type(collate).__name__}: give a function, or leave it out"
        )
    trained = loading("train", train, collate, seed)
    looked_at = judged("val", loading("val", val, collate, mix(seed, 1)))
    held: Loading | None
    if isinstance(holdout, int | float):
        looked_at, held = held_back(looked_at, holdout, mix(seed, 0))
    else:
        held = _looked_at("holdout", holdout, collate, seed)
    order, full = _order(trained, batch_size, seed)
    count = length("val", looked_at.data)
    passes = _passes(val_batch_size, looked_at, count)
    return GivenData(
        train=trained,
        val=looked_at,
        test=_looked_at("test", test, collate, seed),
        holdout=held,
        order=order,
        full_batch=full,
        size=order.size,
        val_batch_size=passes,
        sample=_sample(val_batches, passes, count),
    )


def _looked_at(name: str, given: Any, collate: Any, seed: int) -> Loading | None:
    if given is None:
        return None
    found = judged(name, loading(name, given, collate, mix(seed, 1)))
    length(name, found.data)
    return found


def _order(train: Loading, size: Any, seed: int) -> tuple[Order, bool]:
    count = length("train", train.data)
    if train.order is not None:
        if size is not None:
            raise ValueError(
                f"module_problem takes the batches of the DataLoader train, but got "
                f"batch_size={said(size)}, too: leave one of them out"
            )
        order: Any = train.order
        say_left_out("train", order.left_out(), count)
        return order, False
    size = count if size is None else size
    if not (isinstance(size, int) and 1 <= size <= count):
        raise ValueError(
            f"module_problem needs 1 <= batch_size <= len(train), but got "
            f"batch_size={said(size)}, len(train)={count}"
        )
    order = Permuted(count, size, seed)
    # Others each time: of less weight than what a loader leaves out.
    say_left_out("train", order.left_out(), count, logging.INFO)
    return order, size == count


def _passes(size: Any, val: Loading, count: int) -> int | None:
    size = val.batch_size if size is None else size
    if size is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(
            f"module_problem needs val_batch_size >= 1, but got {said(size)}: leave it "
            "out to look at all validation examples in one pass"
        )
    return size if size < count else None


def _sample(batches: Any, size: int | None, count: int) -> int | None:
    if batches is None:
        return None
    if not isinstance(batches, int) or isinstance(batches, bool) or batches < 1:
        raise ValueError(
            f"module_problem needs val_batches >= 1, but got {said(batches)}: leave it "
            "out to look at all validation examples"
        )
    if size is None:
        raise ValueError(
            f"module_problem needs val_batch_size below the {count} examples of val "
            f"for val_batches={said(batches)}: give it, or leave val_batches out"
        )
    return batches * size if batches * size < count else None


def held_back(val: Loading, share: float, seed: int) -> tuple[Loading, Loading]:
    """Validation data in two: what is left of it, and a random share held back.

    Args:
        val: validation data.
        share: of the examples, 0 < share < 1.
        seed: seeds which ones.

    Raises:
        ValueError: no share, or one that leaves nothing on a side.
    """
    count = length("val", val.data)
    back = round(count * share) if 0 < share < 1 else 0
    if not 0 < back < count:
        raise ValueError(
            "module_problem needs 0 < holdout < 1 with an example on either side, but "
            f"got holdout={said(share)} of {count} in val: use 0.3, or give a data set"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator)
    parts = (sorted(part.tolist()) for part in (order[back:], order[:back]))
    rest, held = (val._replace(data=Subset(val.data, part)) for part in parts)
    return rest, held
