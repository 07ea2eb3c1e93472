"""What each rank of an optimization runs: the same descent on all of them."""

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import ProcessGroup

from raymeta._tree import tree_map
from raymeta.distributed.agreement import agreed, telling_lost_ranks
from raymeta.hypergrad import Estimator
from raymeta.outer.auto import Auto
from raymeta.outer.optimize import descended
from raymeta.outer.parallel import require_same_report, shared_out
from raymeta.outer.report import Report
from raymeta.outer.result import Result
from raymeta.search.named import Kept, continued
from raymeta.search.worker.shared_store import shared_log
from raymeta.tasks.base import Task

#: Reports are told together, at most so often.
TELL_S = 0.2


class Job(NamedTuple):
    """An optimization, as it travels to the ranks.

    Attributes:
        task: what is tuned.
        estimator: how to differentiate.
        settings: `hyper_lr`, `budget` and `seed`.
        parallel: what ranks share out, see `raymeta.outer.parallel.Layout`.
        looks: whether the first look at the task is asked for.
        kept: what was evaluated, and where more of it is kept; None for nowhere.
        dtype: torch's default one.
    """

    task: Task
    estimator: Estimator | Auto
    settings: Mapping[str, Any]
    parallel: str
    looks: bool
    kept: Kept | None
    dtype: torch.dtype


class Told(NamedTuple):
    """What rank 0 tells the driver, and any rank of what it refuses.

    Attributes:
        lines: for people.
        reports: each with the lowest outer loss of a full run so far.
        numbers: those to be noted, by name.
        warned: categories and texts of warnings.
        result: in the end; without λ and what makes its module, which follow from the
            schedule.
        refused: why there is none, in one line.
    """

    lines: tuple[str, ...] = ()
    reports: tuple[tuple[Report, float], ...] = ()
    numbers: tuple[tuple[str, float], ...] = ()
    warned: tuple[tuple[type[Warning], str], ...] = ()
    result: Result | None = None
    refused: str | None = None


class Teller:
    """Tells the driver, on rank 0; other ranks tell nothing.

    Args:
        send: posts to the driver; returns whether that asks to end.
        group: the ranks.
    """

    def __init__(self, send: Callable[[Told], bool], group: ProcessGroup) -> None:
        self._send, self._group = send, group
        self._speaks = dist.get_rank(group) == 0
        self._reports: list[tuple[Report, float]] = []
        self._due, self._asked = 0.0, False

    def tell(self, **what: Any) -> None:
        """At once, with the reports so far; see `Told`."""
        if not self._speaks:
            return
        told = Told(reports=tuple(self._reports), **what)
        self._reports.clear()
        self._asked = self._send(told)
        self._due = time.monotonic() + TELL_S

    def show(self, report: Report, best: float) -> None:
        """Tell of a report, before long.

        Raises:
            ValueError: ranks have other ones.
            KeyboardInterrupt: the driver asks to end.
        """
        require_same_report(report, self._group)
        self._reports.append((report, best))
        if time.monotonic() > self._due:
            self.tell()
        if agreed(self._asked, self._group):
            raise KeyboardInterrupt


def run(job: Job, group: ProcessGroup, send: Callable[[Told], bool]) -> None:
    """Descend with all ranks, and tell the driver of it.

    Args:
        job: the optimization, the same on all ranks.
        group: the ranks.
        send: posts to the driver; returns whether that asks to end.

    Raises:
        ValueError: see `raymeta.optimize`; the driver is told.
        LostRank: another rank died.
    """
    torch.set_default_dtype(job.dtype)
    teller = Teller(send, group)
    try:
        with (
            telling_lost_ranks(),
            warnings.catch_warnings(record=True) as seen,
            suppress(KeyboardInterrupt),  # before anything was found
        ):
            teller.tell(result=_light(_result(job, group, teller)))
        told = [w for w in seen if issubclass(w.category, UserWarning)]
        teller.tell(warned=tuple((w.category, str(w.message)) for w in told))
    except ValueError as error:
        send(Told(refused=str(error)))
        raise


def _result(job: Job, group: ProcessGroup, teller: Teller) -> Result:
    task, estimator = shared_out(
        job.task, job.estimator, job.parallel, job.settings["seed"], group
    )

    def say(line: str) -> None:
        teller.tell(lines=(line,))

    descend = partial(
        descended,
        task,
        estimator,
        **job.settings,
        progress=teller.show,
        opening=say if job.looks else None,
    )
    if job.kept is None:
        return descend()
    return continued(
        partial(shared_log, job.kept.log, group),
        job.kept.numbers,
        lambda name, value: teller.tell(numbers=((name, value),)),
        descend,
        say if job.looks else None,
    )


def _light(result: Result) -> Result:
    """A result that can travel to a machine without this one's device."""

    def here(x: Any) -> Any:
        return x.detach().cpu() if isinstance(x, Tensor) else x

    return replace(result, state=tree_map(here, result.state), hparams={}, tuned=None)
