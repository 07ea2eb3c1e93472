"""Optimization by name: a folder with the evaluation log that it goes on from."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from raymeta.hypergrad import Estimator
from raymeta.outer.auto import Auto
from raymeta.outer.optimize import descended
from raymeta.outer.report import Report
from raymeta.outer.result import Result
from raymeta.results.mirror import address
from raymeta.results.run_folder import RunFolder, run_name
from raymeta.runtime.source_code import code_of
from raymeta.search.fairness import fingerprint
from raymeta.search.resume import require_same_code
from raymeta.search.spec import StudyKey
from raymeta.search.worker.evaluation_log import EvaluationLog
from raymeta.search.worker.replay import ReplayingEvaluator, ReplayMismatch, package
from raymeta.search.worker.stopwatch import Stopwatch
from raymeta.search.worker.trial_store import TrialStore
from raymeta.tasks import loading
from raymeta.tasks.base import Task

#: What is needed beside evaluations, see `Evaluator.once`.
NUMBERS = ("start_holdout_loss", "half_precision_cosine")


class Kept(NamedTuple):
    """What a run by name has evaluated, and where more of it is kept.

    Attributes:
        store: folder of the log, or its address on an object store.
        key: the run's there.
        signature: what evaluations depend on besides λ.
        numbers: by name, what is needed beside evaluations.
    """

    store: str
    key: StudyKey
    signature: str
    numbers: Mapping[str, float]

    def log(self) -> EvaluationLog:
        """The evaluations."""
        return TrialStore(self.store).log(self.key, 0, self.signature)


class RecordingEvaluator(ReplayingEvaluator):
    """Evaluations that are written down as a run by name makes them.

    Args:
        log: where they are written.
        numbers: those needed beside, as far as they are known.
        note: keeps one of them, by name.
    """

    def __init__(
        self,
        log: EvaluationLog,
        numbers: Mapping[str, float],
        note: Callable[[str, float], None],
    ) -> None:
        self._time = Stopwatch()
        super().__init__(log, self._time)
        self._numbers, self._note = dict(numbers), note

    def once(self, name: str, compute: Callable[[], float]) -> float:
        """What was noted under the name, or what `compute` returns."""
        if name not in self._numbers:
            self._numbers[name] = compute()
            self._note(name, self._numbers[name])
        return self._numbers[name]

    def timed(self, reports: Iterator[Report]) -> Iterator[Report]:
        """The reports, with the seconds that computing has taken until each."""
        for report in self._time.over(reports):
            yield report._replace(wall_s=self._time.seconds)


def folder_of(
    task: Task,
    estimator: Estimator | Auto,
    settings: Mapping[str, Any],
    name: str,
    storage: str | Path,
) -> AbstractContextManager[RunFolder]:
    """The open folder of an optimization; see `RunFolder.open`."""
    name = run_name(storage, name, [])
    known = {"task": task.name, "estimator": repr(estimator), **settings}
    return RunFolder.open(storage, name, "optimization", known)


def optimized(
    folder: RunFolder,
    task: Task,
    estimator: Estimator | Auto,
    settings: Mapping[str, Any],
    progress: bool | Callable[[Report, float], None] | None,
) -> Result:
    """The result of `optimize`, from what its folder has and what remains to compute.

    Args:
        folder: keeps the log, the frame and the schedule.
        task: what is tuned.
        estimator: how to differentiate.
        settings: `hyper_lr`, `budget` and `seed`.
        progress: see `optimize`.

    Raises:
        ValueError: see `optimize`.
        KeyboardInterrupt: likewise.
    """
    say = partial(print, flush=True) if progress is True else None
    kept = begun(folder, task, estimator, settings, say)
    descend = partial(descended, task, estimator, **settings, progress=progress)
    result = continued(
        kept.log, kept.numbers, partial(note, folder, kept.signature), descend, say
    )
    write(folder, result)
    return result


def begun(
    folder: RunFolder,
    task: Task,
    estimator: Estimator | Auto,
    settings: Mapping[str, Any],
    say: Callable[[str], None] | None,
) -> Kept:
    """Record that a run begins, or goes on; what is kept of it.

    Args:
        folder: the open one.
        task: what is tuned.
        estimator: how to differentiate.
        settings: `hyper_lr`, `budget` and `seed`.
        say: takes a line for people.

    Raises:
        ValueError: it was begun with other code.
    """
    signature, before = _signature(task, settings), folder.noted("evaluated")
    require_same_code(folder, code_of(task, estimator), begun=before is not None)
    if before not in (None, signature) and say is not None:
        say("what it trained on, raymeta or torch changed: it begins anew")
    folder.note(evaluated=signature)
    folder.record_run(loading.sources([task.name]))
    key = StudyKey(task.name, type(estimator).__name__, settings["seed"])
    noted = {name: folder.noted(name) or (None, math.nan) for name in NUMBERS}
    numbers = {name: value for name, (of, value) in noted.items() if of == signature}
    return Kept(address(folder.path / ".states"), key, signature, numbers)


def note(folder: RunFolder, signature: str, name: str, value: float) -> None:
    """Keep a number that is needed beside evaluations, with what it depends on."""
    folder.note(**{name: [signature, value]})


def continued(
    log_of: Callable[[], EvaluationLog],
    numbers: Mapping[str, float],
    note: Callable[[str, float], None],
    descend: Callable[..., Result],
    say: Callable[[str], None] | None,
) -> Result:
    """The result of a descent that goes on from its log.

    Args:
        log_of: opens the log.
        numbers: see `Kept`.
        note: keeps one of them, by name.
        descend: takes an `evaluator`.
        say: takes a line for people.
    """
    while True:
        log = log_of()
        if say is not None and log.snapshot.length:
            say(f"goes on after {log.snapshot.length:,} evaluations")
        evaluator = RecordingEvaluator(log, numbers, note)
        try:
            result = descend(evaluator=evaluator)
            if not result.interrupted:
                evaluator.save()
                evaluator.end()
        except ReplayMismatch:
            continue  # the log is gone
        finally:
            evaluator.close()
        return result


def write(folder: RunFolder, result: Result) -> None:
    """Write the frame and the schedule."""
    folder.write(result.frame)
    result.export(folder.path / "schedule.json")


def _signature(task: Task, settings: Mapping[str, Any]) -> str:
    """What evaluations depend on besides λ, the settings and people's own code."""
    trained = fingerprint(task, settings["seed"])
    known = [package(), torch.__version__, str(torch.get_default_dtype()), *trained]
    return hashlib.sha256("\n".join(known).encode()).hexdigest()
