"""A descent over several ranks: what of it is shared out among them."""

from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch.distributed import ProcessGroup

from raymeta.distributed import data_parallel
from raymeta.distributed.agreement import agreed, require_same
from raymeta.distributed.data_parallel import require_shareable
from raymeta.errors import said, unknown_name
from raymeta.hypergrad import ES, PES, Estimator, Forward
from raymeta.outer.auto import Auto, affordable
from raymeta.outer.report import Report
from raymeta.problem import BilevelProblem
from raymeta.tasks.base import Task, offered, sampled
from raymeta.types import Hparams

#: What ranks share out: the examples of each batch, or what an estimator carries.
DATA = "data"
SPLIT: dict[str, tuple[type[Forward] | type[ES] | type[PES], ...]] = {
    "tangents": (Forward,),
    "population": (ES, PES),
}


class Layout(NamedTuple):
    """Workers of a descent.

    Attributes:
        workers: how many.
        gpus: GPUs of all of them together, as many for each.
        parallel: "data", "tangents" or "population": what they share out.
    """

    workers: int = 1
    gpus: int = 0
    parallel: str = DATA

    @property
    def is_here(self) -> bool:
        """Whether it is this process alone, without Ray."""
        return self.workers == 1 and self.gpus == 0


def layout_of(workers: Any, gpus: Any, parallel: Any) -> Layout:
    """The layout of the arguments of `raymeta.optimize`.

    Raises:
        ValueError: a number is none, or out of its range; nothing of that name can be
            shared out.
    """
    for name, given, least in (("workers", workers, 1), ("gpus", gpus, 0)):
        integral = isinstance(given, Integral) and not isinstance(given, bool)
        if not integral or given < least:
            raise ValueError(
                f"{name} must be a whole number, {least} or more, but got {said(given)}"
            )
    if gpus % workers:
        raise ValueError(
            f"every worker gets as many GPUs, but got gpus={said(gpus)} for "
            f"workers={workers}: give 0 or a multiple of {workers}"
        )
    known = (DATA, *SPLIT)
    if not isinstance(parallel, str) or parallel not in known:
        raise unknown_name("parallel", parallel, known)
    return Layout(int(workers), int(gpus), parallel)


def require_parallel(
    task: Task, estimator: Estimator | Auto, layout: Layout, seed: int
) -> None:
    """Ask for what cannot be shared out, before workers are started.

    Raises:
        ValueError: the estimator does not carry what is to be shared out; the task's
            steps or batches cannot be.
    """
    if layout.parallel in SPLIT:
        kinds = SPLIT[layout.parallel]
        if not isinstance(estimator, kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(
                f"parallel={layout.parallel!r} shares out the {layout.parallel} of "
                f"{names}, but the estimator is {type(estimator).__name__}: take "
                f"{names}, or parallel='data'"
            )
        return
    try:
        require_shareable(sampled(task, seed), layout.workers)
    except ValueError as error:
        raise ValueError(f"task {task.name!r}: {error}") from error


def shared_out(
    task: Task,
    estimator: Estimator | Auto,
    parallel: str,
    seed: int,
    group: ProcessGroup,
) -> tuple[Task, Estimator | Auto]:
    """A task and its estimator for one of several ranks.

    Args:
        task: for one process.
        estimator: likewise.
        parallel: what is shared out, see `Layout`.
        seed: of the task's sample.
        group: the ranks, all of which must call this.

    Raises:
        ValueError: see `data_parallel`.
    """
    if parallel in SPLIT:
        assert isinstance(estimator, Forward | ES | PES)
        return task, estimator.split(group)
    shared = DataParallelTask(task, group)
    if isinstance(estimator, Auto):
        estimator = Auto(agreed(_affordable(shared, seed), group))
    return shared, estimator


def require_same_report(report: Report, group: ProcessGroup) -> None:
    """Raise ValueError, on every rank, unless they report the same to the last bit."""
    known = {
        "gradient_evals": report.gradient_evals,
        "outer_loss": report.outer_loss,
        **report.hparams,
    }
    seen = {
        name: torch.tensor(x, dtype=torch.float64) if isinstance(x, float) else x
        for name, x in known.items()
    }
    remedy = "use machines of one kind, with the same versions, and seed what draws"
    require_same("reports", seen, group, remedy)


class DataParallelTask:
    """A task whose problems share out their examples; all else is the task's.

    Args:
        task: for one process.
        group: the ranks.
    """

    def __init__(self, task: Task, group: ProcessGroup) -> None:
        self._task, self._group = task, group
        self._problems: dict[int, BilevelProblem] = {}
        if offered(task, "sample_for") is not None:
            self.sample_for = self._sample_for

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def sample(self, seed: int) -> BilevelProblem:
        """One problem, the same one each time."""
        if seed not in self._problems:
            problem = sampled(self._task, seed)
            self._problems[seed] = data_parallel(problem, self._group)
        return self._problems[seed]

    def _sample_for(self, seed: int, choices: Hparams) -> BilevelProblem:
        problem = offered(self._task, "sample_for")(seed, choices)
        return data_parallel(problem, self._group)


def _affordable(task: Task, seed: int) -> Estimator | None:
    """What has room on this rank; None where the descent will say why nothing has."""
    problem = task.sample(seed)
    hparams = task.space.trim(task.space.initial(device=problem.device))
    try:
        return affordable(problem, hparams, task.horizon)
    except ValueError:
        return None
