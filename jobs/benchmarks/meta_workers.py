"""Processes that share the tasks of a step, and how long they take."""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from jobs.benchmarks.meta_cases import CASES, Case
from raymeta.data import share
from raymeta.meta import MetaModule

SIZES = (2**10, 2**14, 2**17, 2**20, 2**22, 2**24)


class Measured(NamedTuple):
    """What processes took.

    Attributes:
        steps: one row per round and number of workers, one and two in turns:
            tasks_per_s; step_s, the seconds of a step; communication, the share of it
            that steps without an all-reduce do not take.
        all_reduce: one row per round, number of workers and bytes: seconds.
    """

    steps: pd.DataFrame
    all_reduce: pd.DataFrame


def measure_workers(
    case: Case, rounds: int, repeats: int, worlds: Sequence[int]
) -> Measured:
    """Start so many processes, one number after the other; where two, they train."""
    steps, transfers = [], []
    for world in worlds:
        with tempfile.TemporaryDirectory() as folder:
            args = (world, folder, CASES.index(case), rounds, repeats)
            multiprocessing.spawn(_in_group, args, nprocs=world)
            trained, reduced = torch.load(Path(folder) / "rows.pt")
        steps += trained
        transfers += reduced
    columns = ["round", "workers", "tasks_per_s", "step_s", "communication"]
    return Measured(
        pd.DataFrame(steps, columns=columns),
        pd.DataFrame(transfers, columns=["workers", "bytes", "round", "seconds"]),
    )


def _in_group(
    rank: int, world: int, folder: str, number: int, rounds: int, repeats: int
) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    trained = _train(rank, world, number, rounds, repeats) if world == 2 else []
    rows = trained, _all_reduce(world, rounds)
    if rank == 0:
        torch.save(rows, Path(folder) / "rows.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def _train(rank: int, world: int, number: int, rounds: int, repeats: int) -> list:
    """Each round: rank 0 alone does all tasks, then all ranks share them."""
    case = CASES[number]
    alone = MetaModule(case.learner())
    together = DistributedDataParallel(MetaModule(case.learner()))
    start, stop = share(case.tasks, rank, world)
    all_tasks = [case.episodes(step) for step in range(repeats)]
    own = [case.episodes(step, start, stop) for step in range(repeats)]

    def steps_alone() -> None:
        if rank == 0:
            for episodes in all_tasks:
                alone(episodes).losses.mean().backward()

    def steps_together(synchronized: bool = True) -> None:
        for episodes in own:
            with nullcontext() if synchronized else together.no_sync():
                losses = together(episodes).losses
                (losses.sum() * world / case.tasks).backward()

    def timed(steps: Callable[[], None]) -> float:
        distributed.barrier()
        begun = time.perf_counter()
        steps()
        distributed.barrier()
        return (time.perf_counter() - begun) / repeats

    rows = []
    for i in range(-1, rounds):  # the first round traces
        one, two = timed(steps_alone), timed(steps_together)
        silent = timed(lambda: steps_together(synchronized=False))
        if i >= 0:
            rows.append((i, 1, case.tasks / one, one, 0.0))
            rows.append((i, world, case.tasks / two, two, max(0.0, 1 - silent / two)))
    return rows


def _all_reduce(world: int, rounds: int) -> list:
    rows = []
    for size in SIZES:
        gradient = torch.zeros(size // 4)
        repeats = max(3, 2**22 // size if size > 2**17 else 32)
        for i in range(-1, rounds):
            distributed.barrier()
            begun = time.perf_counter()
            for _ in range(repeats):
                distributed.all_reduce(gradient)
            if i >= 0:
                seconds = (time.perf_counter() - begun) / repeats
                rows.append((world, size, i, seconds))
    return rows
