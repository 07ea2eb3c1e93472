"""Ranks: processes of one process group, for tests of what runs on several."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing

#: Seconds that a rank gets to start, or to answer.
PATIENCE_S = 400.0


class RankFailed(AssertionError):
    """A rank's error, with its traceback."""


class Ranks:
    """Processes that import torch once and then run functions together.

    Args:
        world: how many processes; gloo groups of the first 1 … world are at hand.
        address: where they meet, an `init_method` of torch's; a new file by default.
    """

    def __init__(self, world: int) -> None:
        self.world = world
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        meet = f"file://{self._folder.name}/group"
        self._pipes: list[Connection] = []
        self.processes = []
        for rank in range(world):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, world, meet, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any, world: int = 0) -> list:
        """function(group, *args) on each of the first `world` ranks, by rank.

        Raises:
            RankFailed: it raised on one.
        """
        pipes = self._pipes[: world or self.world]
        for pipe in pipes:
            pipe.send((function, args, len(pipes)))
        found = []
        for rank, pipe in enumerate(pipes):
            if not pipe.poll(PATIENCE_S):
                raise RankFailed(f"rank {rank} does not answer")
            try:
                result, error = pipe.recv()
            except EOFError:
                result, error = None, "died"
            if error is not None:
                raise RankFailed(f"rank {rank}: {error}")
            found.append(result)
        return found

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self.processes:
            process.kill()
            process.join()
        self._folder.cleanup()


def _serve(rank: int, world: int, meet: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    patience = timedelta(seconds=PATIENCE_S)
    dist.init_process_group(
        "gloo", init_method=meet, rank=rank, world_size=world, timeout=patience
    )
    groups = {n: dist.new_group(list(range(n))) for n in range(1, world + 1)}
    while True:
        try:
            function, args, count = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((function(groups[count], *args), None))
        except Exception:
            pipe.send((None, traceback.format_exc()))
