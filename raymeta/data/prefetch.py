"""Prefetching of episodes, while others are learnt from."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch
from torch import Tensor

from raymeta._tree import tree_map
from raymeta.data.episodes import Episode, SplitName
from raymeta.data.families import Family, check_family, share


def prefetch(
    family: Family,
    steps: Iterable[int],
    *,
    count: int,
    seed: int,
    split: SplitName = "train",
    rank: int = 0,
    world: int = 1,
    ahead: int = 2,
    device: torch.device | str = "cpu",
) -> Generator[Episode, None, None]:
    """A worker's episodes, step after step, prepared on a thread of their own.

    They are those of `family.episodes`, in the order of the steps; what it raises for a
    step is raised when that step is due. To go on from step t, begin `steps` there. The
    thread ends with the iterator: after the last step, an error, `close()`, or when it
    is dropped.

    Args:
        family: the family of tasks.
        steps: the outer steps, as `range(t, T)` or, without end, `itertools.count(t)`.
        count: tasks of a step, of all workers together.
        seed: seed of the run.
        split: the part of the family's tasks.
        rank: this worker.
        world: workers, which share a step's tasks as `share` says.
        ahead: steps prepared before they are due, at most.
        device: where the episodes go; to a GPU by way of pinned memory, without waiting
            for the copy.

    Raises:
        ValueError: not a family; more workers than tasks; ahead < 1.
    """
    check_family(family)
    if ahead < 1:
        raise ValueError(f"prefetch needs ahead >= 1, but got ahead={ahead}")
    start, stop = share(count, rank, world)
    on_gpu = torch.device(device).type == "cuda"

    def prepare(step: int) -> Episode:
        episode = family.episodes(step, count, start, stop, seed=seed, split=split)
        return tree_map(Tensor.pin_memory, episode) if on_gpu else episode

    def deliver(episode: Episode) -> Episode:
        return tree_map(lambda x: x.to(device, non_blocking=True), episode)

    return _in_background(prepare, deliver, steps, ahead)


def _in_background(
    prepare: Callable[[int], Episode],
    deliver: Callable[[Episode], Episode],
    steps: Iterable[int],
    ahead: int,
) -> Generator[Episode, None, None]:
    # Asking for torch's number of threads is what makes a new thread keep to it: with
    # one of OpenMP's for each core, small tasks would wait for these 30 ms.
    thread = ThreadPoolExecutor(
        1,
        thread_name_prefix="raymeta-prefetch",
        initializer=torch.get_num_threads,
    )
    try:
        prepared = (thread.submit(prepare, step) for step in steps)
        waiting = deque(islice(prepared, ahead))
        while waiting:
            episode = waiting.popleft().result()
            waiting.extend(islice(prepared, 1))
            yield deliver(episode)
    finally:
        thread.shutdown(cancel_futures=True)
