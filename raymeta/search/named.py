"""Optimization by name: a folder with the evaluation log that it goes on from."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

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


class RecordingEvaluator(ReplayingEvaluator):
    """Evaluations that are written down in the folder of a run.

    Args:
        log: where they are written.
        stopwatch: the run's.
        folder: keeps the other numbers, for as long as the signature is the same.
        signature: that of the log.
    """

    def __init__(
        self,
        log: EvaluationLog,
        stopwatch: Stopwatch,
        folder: RunFolder,
        signature: str,
    ) -> None:
        super().__init__(log, stopwatch)
        self._time, self._folder, self._signature = stopwatch, folder, signature

    def once(self, name: str, compute: Callable[[], float]) -> float:
        """What was noted under the name, or what `compute` returns."""
        signature, value = self._folder.noted(name) or (None, None)
        if signature != self._signature:
            value = compute()
            self._folder.note(**{name: [self._signature, value]})
        assert value is not None
        return value

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
    store = TrialStore(address(folder.path / ".states"))
    signature, before = _signature(task, settings), folder.noted("evaluated")
    require_same_code(folder, code_of(task, estimator), begun=before is not None)
    if before not in (None, signature) and progress is True:
        print("what it trained on, raymeta or torch changed: it begins anew")
    folder.note(evaluated=signature)
    folder.record_run(loading.sources([task.name]))
    key = StudyKey(task.name, type(estimator).__name__, settings["seed"])
    while True:
        log = store.log(key, 0, signature)
        if progress is True and log.snapshot.length:
            print(f"goes on after {log.snapshot.length:,} evaluations", flush=True)
        evaluator = RecordingEvaluator(log, Stopwatch(), folder, signature)
        try:
            result = descended(
                task, estimator, **settings, progress=progress, evaluator=evaluator
            )
            if not result.interrupted:
                evaluator.save()
                evaluator.end()
        except ReplayMismatch:
            continue  # the log is gone
        finally:
            evaluator.close()
        folder.write(result.frame)
        result.export(folder.path / "schedule.json")
        return result


def _signature(task: Task, settings: Mapping[str, Any]) -> str:
    """What evaluations depend on besides λ, the settings and people's own code."""
    trained = fingerprint(task, settings["seed"])
    known = [package(), torch.__version__, str(torch.get_default_dtype()), *trained]
    return hashlib.sha256("\n".join(known).encode()).hexdigest()
