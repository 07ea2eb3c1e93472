"""Ranks of a trial: the worker that Tune starts, and peers in its placement group.

All of them run the trial, in step; rank 0 alone reports to Tune and keeps what is kept.
They stay together as long as Tune goes on with the worker, trial after trial.
"""

import os
import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Self

import ray
import torch
from ray.util import get_current_placement_group, get_node_ip_address
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import distributed as dist
from torch.distributed import PrefixStore, ProcessGroup, Store, TCPStore

from raymeta.distributed.agreement import GONE, LostRank, agreed, telling_lost_ranks
from raymeta.distributed.conjugate import default_group
from raymeta.errors import one_line
from raymeta.outer.report import Report
from raymeta.search.worker.evaluation_log import EvaluationLog
from raymeta.search.worker.replay import ReplayingEvaluator
from raymeta.search.worker.stopwatch import Stopwatch

#: Tensors of CPUs and of GPUs, each by what carries them.
BACKENDS = {False: "gloo", True: "cpu:gloo,cuda:nccl"}
#: Seconds after which a rank that raises knows that others do not: they are in step.
ALONE_S = 60.0

#: What each rank runs: (ranks, ...) -> the reports of a trial.
Work = Callable[..., Iterator[Report]]


class TrialRanks:
    """The ranks of a trial, as one of them sees them.

    Args:
        store: what they tell each other when they are no longer in step.
        group: their process group.
    """

    def __init__(self, store: Store, group: ProcessGroup) -> None:
        self._store, self.group = store, group
        self._rank, self._world = dist.get_rank(group), dist.get_world_size(group)
        self._failures = 0

    @classmethod
    def joined(cls, store: Store, rank: int, world: int, *, on_gpu: bool) -> Self:
        """They have met; all of them call this.

        Args:
            store: where they meet.
            rank: this one.
            world: how many.
            on_gpu: whether they compute on GPUs.
        """
        dist.init_process_group(
            BACKENDS[on_gpu],
            store=PrefixStore("group", store),
            rank=rank,
            world_size=world,
        )
        return cls(store, default_group(None, "a trial on several workers"))

    def in_step(self, reports: Iterator[Report]) -> Iterator[Report]:
        """The reports, one by one on all ranks, for as long as rank 0 asks for them."""
        waited_for = False
        with telling_lost_ranks():
            try:
                while agreed(True, self.group):
                    report = next(reports, None)
                    if report is None:
                        return
                    waited_for = True
                    yield report
                    waited_for = False
            finally:
                if waited_for and self._rank == 0:
                    agreed(False, self.group)

    def require_same_failure(self, error: Exception) -> None:
        """Return where every rank has raised at this point.

        Raises:
            LostRank: others did not, or are gone: ranks are no longer in step.
        """
        if GONE.search(str(error)):
            raise LostRank(one_line(error)) from error
        self._failures += 1
        names = [f"failure {self._failures} of {r}" for r in range(self._world)]
        mine = names[self._rank]
        try:
            self._store.set(mine, "")
            self._store.wait(names, timedelta(seconds=ALONE_S))
        except RuntimeError:  # of torch: in vain, or rank 0 is gone
            with suppress(RuntimeError):  # who fails later, as this one ends, is alone
                self._store.delete_key(mine)
            raise LostRank(
                f"rank {self._rank} fails alone: {one_line(error)}"
            ) from error

    def tell_loss(self, error: BaseException) -> None:
        """Leave for rank 0 why this one ends."""
        with suppress(RuntimeError):
            self._store.set(f"loss of {self._rank}", one_line(error))

    def losses(self) -> list[str]:
        """Why ranks have ended, as far as they could say so."""
        names = [f"loss of {rank}" for rank in range(self._world)]
        return [self._store.get(x).decode() for x in names if self._store.check([x])]


class SharedEvaluator(ReplayingEvaluator):
    """Evaluations on a rank of a trial: all ranks decide alike.

    Args:
        log: see `raymeta.search.worker.shared_store.shared_log`.
        stopwatch: the trial's.
        group: the ranks.
    """

    def __init__(
        self, log: EvaluationLog, stopwatch: Stopwatch, group: ProcessGroup
    ) -> None:
        super().__init__(log, stopwatch)
        self._group = group

    def common(self, value: Any) -> Any:
        """Rank 0's."""
        return agreed(value, self._group)


class Peer:
    """A rank beside rank 0, an actor of Ray."""

    def ready(self) -> None:
        """Answer, once torch is imported."""

    def join(
        self, host: str, port: int, rank: int, world: int, *, on_gpu: bool
    ) -> None:
        """Become a rank of the trials of a worker."""
        torch.set_num_threads(1)
        store = TCPStore(host, port, is_master=False, wait_for_workers=False)
        self._ranks = TrialRanks.joined(store, rank, world, on_gpu=on_gpu)

    def follow(self, work: Work, *args: Any) -> None:
        """Run a trial in step with rank 0.

        A rank that fails by itself ends its process, so that others do not wait for it.
        """
        try:
            for _ in self._ranks.in_step(work(self._ranks, *args)):
                pass
        except BaseException as error:
            self._ranks.tell_loss(error)
            os.kill(os.getpid(), signal.SIGKILL)


class _Leader:
    """Rank 0 of a worker's trials, and its peers.

    Args:
        world: how many ranks.
        bundle: what each of them holds, by name.
    """

    def __init__(self, world: int, bundle: Mapping[str, float]) -> None:
        own = {name: x for name, x in bundle.items() if name not in ("CPU", "GPU")}
        place = get_current_placement_group()
        assert place is not None  # Tune's, of the trial
        self._peers: list[Any] = [
            ray.remote(Peer)
            .options(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                resources=own,
                scheduling_strategy=PlacementGroupSchedulingStrategy(place, index),
            )
            .remote()
            for index in range(1, world)
        ]
        ray.get([peer.ready.remote() for peer in self._peers])
        host, on_gpu = get_node_ip_address(), bool(bundle.get("GPU"))
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        meet = host, store.port
        for rank, peer in enumerate(self._peers, 1):
            peer.join.remote(*meet, rank, world, on_gpu=on_gpu)
        self._ranks = TrialRanks.joined(store, 0, world, on_gpu=on_gpu)

    def reports(self, work: Work, *args: Any) -> Iterator[Report]:
        """The reports of a trial.

        Raises:
            LostRank: a peer died, or failed alone.
        """
        for peer in self._peers:
            peer.follow.remote(work, *args)
        return self._ranks.in_step(work(self._ranks, *args))

    def end(self) -> list[str]:
        """End the peers; why those ended that did so by themselves."""
        losses = self._ranks.losses()
        for peer in self._peers:
            ray.kill(peer)
        dist.destroy_process_group()
        return losses


_leaders: list[_Leader] = []  # of this process: one at most


def on_ranks(
    world: int, bundle: Mapping[str, float], work: Work, *args: Any
) -> Generator[Report, None, None]:
    """The reports of a trial that this worker runs together with its peers.

    Args:
        world: how many ranks.
        bundle: what each holds, by name.
        work: what each runs.
        args: its arguments, beside the ranks.

    Raises:
        LostRank: a rank died, or failed alone; the next trial has new peers.
    """
    if not _leaders:
        _leaders.append(_Leader(world, bundle))
    try:
        yield from _leaders[0].reports(work, *args)
    except GeneratorExit:
        raise
    except BaseException as error:
        losses = _leaders.pop().end()
        if isinstance(error, LostRank) and losses:
            raise LostRank("; ".join(losses)) from error
        raise
