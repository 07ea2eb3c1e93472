"""Worker: what each rank runs, the seeds' trainings one after the other."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from raymeta.train.checkpoints import seed_folder
from raymeta.train.config import DTYPES, TrainConfig
from raymeta.train.events import Event
from raymeta.train.metrics_log import Rows, last_attempt
from raymeta.train.process_group import ProcessGroup
from raymeta.train.reports import Reports, Send
from raymeta.train.trainer import Diverged, Training


def work(
    config: TrainConfig,
    path: Path,
    ranks: ProcessGroup,
    report: Callable[[Event], None],
    should_stop: Callable[[], bool],
    send: Send | None = None,
    preempted: Callable[[], bool] | None = None,
    group: str = "",
) -> None:
    """Train every seed, on this rank.

    Args:
        config: the run's settings.
        path: its folder, which all ranks see.
        ranks: this process among all.
        report: takes events, on rank 0.
        should_stop: is asked at every step; rank 0's answer counts.
        send: tells Ray Train how the run stands; called on all ranks alike.
        preempted: says whether a worker's node is about to go; likewise.
        group: name of these ranks, where others train the run's other seeds.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[config.dtype])
    try:
        with torch.random.fork_rng(devices=[]):
            reports = Reports(send, preempted)
            _train_all(config, path, ranks, report, should_stop, reports, group)
    finally:
        torch.set_default_dtype(before)


def _train_all(
    config: TrainConfig,
    path: Path,
    ranks: ProcessGroup,
    report: Callable[[Event], None],
    should_stop: Callable[[], bool],
    reports: Reports,
    group: str,
) -> None:
    attempt, pids = _agree(path, ranks, group)
    rows = Rows(path / "parts", attempt, ranks.rank, group)
    for seed in config.seeds:
        folder = seed_folder(path, seed)
        training = Training(config, seed, ranks, folder, rows, report, reports)
        if ranks.rank == 0:
            report(
                {
                    "event": "start",
                    "seed": seed,
                    "step": training.step,
                    "attempt": attempt,
                    "workers": ranks.world,
                    "device": ranks.device.type,
                    "pids": pids,
                }
            )
        try:
            finished = training.run(should_stop)
        except Diverged as error:
            # All ranks agree, and another attempt would end like this one; other seeds
            # may not.
            if ranks.rank == 0:
                report({"event": "failed", "reason": str(error)})
            continue
        if not finished:
            if ranks.rank == 0:
                report({"event": "stopped", "seed": seed, "step": training.step})
            training.publish()
            return
        if ranks.rank == 0:
            report({"event": "finished", "seed": seed, "step": training.step})
    training.publish()


def _agree(path: Path, ranks: ProcessGroup, group: str) -> tuple[int, list[int]]:
    """The number of this attempt, as rank 0 sees it, and the ranks' process ids."""
    mine = torch.zeros(1 + ranks.world)
    if ranks.rank == 0:
        mine[0] = last_attempt(path / "parts", group) + 1
    mine[1 + ranks.rank] = os.getpid()
    attempt, *pids = (int(x) for x in ranks.total(mine.double()))
    return attempt, pids
