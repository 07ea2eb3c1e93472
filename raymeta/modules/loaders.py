"""Data loaders of torch, as what they say: an order by step, a collation, workers."""

import logging
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    SequentialSampler,
    Subset,
    default_collate,
)

from raymeta.modules.counter_rng import mix
from raymeta.modules.datasets import data_set, length
from raymeta.modules.rng_state import restored, seed_all

#: How many epochs' orders are kept.
_KEPT = 3
#: An epoch of more than so many times the examples has no end.
_TIMES = 100
#: What is passed on to the workers' loader.
_WORKERS = (
    "num_workers",
    "prefetch_factor",
    "worker_init_fn",
    "multiprocessing_context",
    "timeout",
)


class Seen(NamedTuple):
    """What a step of training sees.

    Attributes:
        index: which examples, int64, shape (batch,).
        epoch: which time they are read.
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    epoch: int


class Order(Protocol):
    """Which examples each step sees."""

    @property
    def size(self) -> float:
        """Examples in a batch, in the mean over the first epoch."""
        ...

    def at(self, t: int) -> Seen:
        """What step t sees; a function of t."""
        ...


class Loading(NamedTuple):
    """Data by index, and how they are read.

    Attributes:
        data: a data set by index.
        collate: examples -> a batch; None for torch's own.
        order: of the steps, where a loader has one.
        batch_size: examples of a batch, where a loader says so.
        workers: arguments of the loader whose processes read ahead; None without.
    """

    data: Dataset
    collate: Callable[[list], Any] | None = None
    order: Order | None = None
    batch_size: int | None = None
    workers: dict[str, Any] | None = None


def loading(
    name: str, given: Any, collate: Callable[[list], Any] | None, seed: int
) -> Loading:
    """Data as users bring them, by index.

    Args:
        name: the argument of `module_problem`.
        given: a `DataLoader`, or what `data_set` takes.
        collate: examples -> a batch; None for torch's own, or the loader's.
        seed: seeds a loader's order.

    Raises:
        ValueError: nothing of that kind; a loader without batches, whose order is not
            the same when it is drawn again, or has no end.
    """
    if not isinstance(given, DataLoader):
        return Loading(data_set(name, given), collate)
    if collate is not None:
        raise ValueError(
            f"module_problem takes collate= for data sets, but {name} is a DataLoader: "
            "give it collate_fn="
        )
    if given.batch_sampler is None:
        raise ValueError(
            f"module_problem needs a DataLoader with batches, but {name} has "
            "batch_size=None: give batch_size=, and a data set of single examples"
        )
    data = data_set(name, given.dataset)
    count = length(name, data)
    sampler: Any = given.batch_sampler
    if isinstance(given.dataset, IterableDataset):  # without an order of its own
        # The loader's attribute, since a stream is cut as it arrives.
        sampler = BatchSampler(range(count), sampler.batch_size, given.drop_last)
    own = given.collate_fn is not default_collate
    options = {key: getattr(given, key) for key in _WORKERS}
    order = Epochs(name, sampler, count, seed)
    return Loading(
        data,
        given.collate_fn if own else None,
        order,
        max(map(len, order.epoch(0))),
        options if given.num_workers > 0 else None,
    )


def judged(name: str, given: Loading) -> Loading:
    """Data to judge by: the examples of a loader's first epoch, in its order."""
    if given.order is None:
        return given
    assert isinstance(given.order, Epochs)
    rows = [i for batch in given.order.epoch(0) for i in batch]
    if rows == list(range(length(name, given.data))):
        return given
    say_left_out(name, given.order.left_out(), given.order.count)
    return given._replace(data=Subset(given.data, rows))


class Permuted:
    """Batches of a new permutation each epoch.

    Args:
        count: how many examples there are; an epoch leaves out what fills no batch.
        size: examples in a batch.
        seed: seeds the order.
    """

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.count, self.size, self._seed = count, size, seed

    def at(self, t: int) -> Seen:
        """What step t sees."""
        index = batch_indices(self.count, self.size, self._seed, t)
        return Seen(index, t // (self.count // self.size))

    def left_out(self) -> int:
        """Examples that an epoch leaves out."""
        return self.count % self.size


class Epochs:
    """Batches of a loader's sampler, which is seeded by (seed, epoch).

    `set_epoch(epoch)` is called on samplers that have it. A sampler that draws from
    the global generators of torch, Python or numpy, or from a `torch.Generator` of its
    own, draws the same for the same epoch.

    Args:
        name: the argument of `module_problem`.
        sampler: lists of indices.
        count: examples in the data set.
        seed: seeds the order.

    Attributes:
        count: examples in the data set.

    Raises:
        ValueError: an epoch is empty, has no end or is not the same when it is drawn
            again; an index is of no example.
    """

    def __init__(self, name: str, sampler: Any, count: int, seed: int) -> None:
        self._name, self._sampler, self.count = name, sampler, count
        self._seed = seed
        self._kept: OrderedDict[int, list[list[int]]] = OrderedDict()
        self._starts = [0]
        first = self._drawn(0)
        self._require_batches(first)
        self._drawn(1)
        if first != self._drawn(0):
            raise ValueError(
                f"module_problem needs an order that is a function of the seed, but "
                f"{self._called} gives another one when epoch 0 is drawn again: let it "
                "draw from the global generators, or a torch.Generator that is its "
                "attribute, or follow set_epoch, and keep no count of epochs"
            )
        self._kept[0] = first
        self.size = sum(map(len, first)) / len(first)

    def at(self, t: int) -> Seen:
        """What step t sees."""
        while self._starts[-1] <= t:
            batches = self.epoch(len(self._starts) - 1)
            self._starts.append(self._starts[-1] + len(batches))
        epoch = bisect_right(self._starts, t) - 1
        batch = self.epoch(epoch)[t - self._starts[epoch]]
        return Seen(torch.tensor(batch), epoch)

    def epoch(self, epoch: int) -> list[list[int]]:
        """All batches of an epoch, in order."""
        if epoch not in self._kept:
            batches = self._drawn(epoch)
            self._require_batches(batches)
            self._kept[epoch] = batches
        self._kept.move_to_end(epoch)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[epoch]

    def left_out(self) -> int:
        """Examples that the first epoch leaves out."""
        return self.count - len({i for batch in self.epoch(0) for i in batch})

    @property
    def _called(self) -> str:
        inner = getattr(self._sampler, "sampler", None)
        plain = type(self._sampler) is BatchSampler and inner is not None
        return f"{type(inner if plain else self._sampler).__name__} of {self._name}"

    def _drawn(self, epoch: int) -> list[list[int]]:
        own = mix(self._seed, epoch)
        parts = list(_parts(self._sampler))
        generators = [part for part in parts if isinstance(part, torch.Generator)]
        before = [generator.get_state() for generator in generators]
        with restored():
            seed_all(own)
            for generator in generators:
                generator.manual_seed(own)
            for part in parts:
                set_epoch = getattr(part, "set_epoch", None)
                if callable(set_epoch):
                    set_epoch(epoch)
            try:
                limit = 2 * _TIMES * self.count
                batches, seen = [], 0
                for batch in self._sampler:
                    batches.append([int(i) for i in batch])
                    seen += len(batches[-1]) + 1
                    if seen > limit:
                        raise self._endless()
            finally:
                for generator, state in zip(generators, before, strict=True):
                    generator.set_state(state)
        return batches

    def _endless(self) -> ValueError:
        return ValueError(
            f"module_problem needs epochs with an end, but {self._called} goes on "
            f"after {_TIMES} times the {self.count} examples: cut it, for example by "
            "itertools.islice"
        )

    def _require_batches(self, batches: list[list[int]]) -> None:
        if not batches:
            raise ValueError(
                f"module_problem needs batches, but the DataLoader {self._name} has "
                f"none of its {self.count} examples: use a smaller batch_size, or "
                "drop_last=False"
            )
        for k, batch in enumerate(batches):
            if not batch:
                raise ValueError(
                    f"module_problem needs an example in each batch, but "
                    f"{self._called} gives none in batch {k} of an epoch: leave it out"
                )
            strange = [i for i in batch if not 0 <= i < self.count]
            if strange:
                raise ValueError(
                    f"module_problem needs examples by index below {self.count}, but "
                    f"{self._called} gives {strange[0]}: make it for this data set"
                )


def _parts(sampler: Any, depth: int = 3) -> Iterator[Any]:
    """A sampler, those that it is made of, and their generators."""
    yield sampler
    if isinstance(sampler, SequentialSampler) or depth == 0:
        return
    for part in getattr(sampler, "__dict__", {}).values():
        if isinstance(part, torch.Generator):
            yield part
        elif isinstance(part, Sampler):
            yield from _parts(part, depth - 1)


@lru_cache
def say_left_out(
    name: str, left_out: int, count: int, level: int = logging.WARNING
) -> None:
    """Say once what an epoch leaves out."""
    if left_out:
        logging.getLogger(__name__).log(
            level, "an epoch of %s leaves out %d of %d examples", name, left_out, count
        )


def batch_indices(count: int, size: int, seed: int, t: int) -> Tensor:
    """Which examples step t sees: a new permutation each epoch, int64, shape (size,).

    Args:
        count: how many examples there are; an epoch leaves out what fills no batch.
        size: examples in a batch.
        seed: seeds the order.
        t: the step.
    """
    epoch, position = divmod(t, count // size)
    return _permutation(count, seed, epoch)[position * size : (position + 1) * size]


@lru_cache(maxsize=8)
def _permutation(count: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(mix(seed, epoch))
    return torch.randperm(count, generator=generator)
