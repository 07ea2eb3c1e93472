"""Reading of examples: one by one, seeded, and ahead of time by other processes."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils.data import DataLoader, Dataset

from raymeta._tree import in_transform
from raymeta.modules.collate import collated, require_targets
from raymeta.modules.counter_rng import mix
from raymeta.modules.rng_state import restored, seed_all, states

Value = TypeVar("Value")
#: Which examples, and which time they are read.
Task = tuple[list[int], int]


class Reader:
    """Batches of a data set, on the CPU.

    What is drawn from the global generators of torch, Python or numpy where an example
    is read is a function of (seed, epoch, example); where they are put together, of
    (seed, epoch, first example).

    Args:
        name: the argument of `module_problem`.
        data: a data set by index.
        collate: see `collated`.
        dtype: see `collated`.
        seed: seeds what is drawn.
    """

    def __init__(
        self,
        name: str,
        data: Dataset,
        collate: Callable[[list], Any] | None,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        self.name, self._data, self._collate = name, data, collate
        self._dtype, self._seed = dtype, seed

    def __call__(self, index: list[int], epoch: int) -> Any:
        """The batch of these examples."""
        with restored():
            items = [self._example(i, epoch) for i in index]
            seed_all(self._seed_at(-1 - index[0], epoch))
            return self._batch(items)

    def drawn(self, index: list[int], epoch: int) -> tuple[Any, bool]:
        """The same, and whether it took random numbers."""
        with restored():
            items, drew = [], False
            for i in index:
                items.append(self._example(i, epoch))
                drew = drew or self._drew(i, epoch)
            first = -1 - index[0]
            seed_all(self._seed_at(first, epoch))
            batch = self._batch(items)
            return batch, drew or self._drew(first, epoch)

    def _example(self, i: int, epoch: int) -> Any:
        seed_all(self._seed_at(i, epoch))
        try:
            return self._data[i]
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            raise ValueError(
                f"module_problem needs examples by index from 0 to its length, but "
                f"{self.name}[{i}] fails: {type(error).__name__}: {first}"
            ) from error

    def _batch(self, items: list[Any]) -> Any:
        if self._collate is None:
            require_targets(self.name, items[0])
        batch = collated(self.name, items, self._dtype, self._collate)
        require_targets(self.name, batch)
        return batch

    def _seed_at(self, i: int, epoch: int) -> int:
        return mix(mix(self._seed, epoch), i)

    def _drew(self, i: int, epoch: int) -> bool:
        after = states()
        seed_all(self._seed_at(i, epoch))
        return states() != after


class Ahead:
    """A reader whose batches other processes prepare, as long as they are in order.

    The numbers are those of the reader. A batch out of order (a run that goes back) is
    read here; the next one in order starts the processes again.

    Args:
        reader: what reads.
        tasks: place -> what is read there; places follow one another.
        options: arguments of `DataLoader` about its workers.
        pinned: whether batches come in pinned memory.
    """

    def __init__(
        self,
        reader: Reader,
        tasks: Callable[[int], Task],
        options: dict[str, Any],
        pinned: bool,
    ) -> None:
        self._reader, self._tasks = reader, tasks
        self._options = {**options, "pin_memory": pinned}
        self._stopped()

    def _stopped(self) -> None:
        self._kept: dict[int, Any] = {}
        self._last, self._due = -2, -1
        self._iterator: Any = None

    def at(self, place: int) -> Any:
        """The batch of a place."""
        if place not in self._kept:
            batch = self._next(place)
            # One asks for it again, and all ask for the first: it tells the device.
            keep = {0, self._last}
            self._kept = {k: b for k, b in self._kept.items() if k in keep}
            self._kept[place], self._last = batch, place
        return self._kept[place]

    def _next(self, place: int) -> Any:
        if place != self._due:
            if place != self._last + 1:
                return self._reader(*self._tasks(place))
            with restored():  # a loader draws a seed for its workers
                self._iterator = iter(self._loader(place))
        self._due = place + 1
        batch = next(self._iterator)
        if isinstance(batch, ValueError):
            raise batch
        return batch

    def _loader(self, place: int) -> DataLoader:
        return DataLoader(
            _Tasks(self._reader),
            sampler=_From(self._tasks, place),
            batch_size=None,
            collate_fn=_as_it_is,
            **self._options,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without the processes, which cannot travel."""
        kept = {"_kept", "_last", "_due", "_iterator"}
        return {key: x for key, x in self.__dict__.items() if key not in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Before the first batch."""
        self.__dict__.update(state)
        self._stopped()


class _Tasks(Dataset):
    """Batches by task; what is wrong with one is returned, to be told in one line."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __getitem__(self, task: Task) -> Any:
        try:
            return self._reader(*task)
        except ValueError as error:
            return ValueError(str(error))


class _From:
    """The tasks from a place on, without end."""

    def __init__(self, tasks: Callable[[int], Task], place: int) -> None:
        self._tasks, self._place = tasks, place

    def __iter__(self) -> Any:
        place = self._place
        while True:
            yield self._tasks(place)
            place += 1


def _as_it_is(batch: Any) -> Any:
    return batch


def outside_transforms(function: Callable[[], Value]) -> Value:
    """What a function returns, without the transforms and traces around this call.

    They are of a thread, and what is read is a constant to all of them.
    """
    if not in_transform() and get_proxy_mode() is None:
        return function()
    # Asking for torch's number of threads keeps the new thread to it.
    with ThreadPoolExecutor(1, initializer=torch.get_num_threads) as thread:
        return thread.submit(function).result()
