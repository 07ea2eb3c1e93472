"""Trials of a task as `tune.Trainable`s, which any Tuner can stop, pause and copy.

Stepping, saving and restoring are Tune's own protocol: a scheduler sees an outer loss
after each step, and a checkpoint holds all that the next step depends on, so a trial
that is restored, on whatever node, reports what it would have reported.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from ray.tune import Trainable
from ray.tune.result import DONE, RESULT_DUPLICATE, SHOULD_CHECKPOINT
from ray.tune.utils import flatten_dict

from raymeta._tree import flatten, tree_leaves, unflatten
from raymeta.errors import unknown_name
from raymeta.outer.conditions import Conditioned
from raymeta.outer.flops import step_flops
from raymeta.outer.report import Report
from raymeta.problem import BilevelProblem
from raymeta.results.tensors import load_tensors, save_tensors
from raymeta.runtime.serialization import Payload
from raymeta.search.methods import DescentMethod, Method, SearchMethod
from raymeta.search.spec import StudyKey, TrialSpec
from raymeta.search.tune.space import tune_names
from raymeta.search.worker.evaluation_log import EvaluationLog
from raymeta.search.worker.metrics import TrialMetrics
from raymeta.search.worker.replay import (
    ReplayingEvaluator,
    ReplayMismatch,
    signature_of,
)
from raymeta.search.worker.stopwatch import Stopwatch
from raymeta.space import Point, Space
from raymeta.tasks.base import Task, choice_key, sample_problem
from raymeta.types import State

#: A trial asks Tune for a checkpoint this often, whatever the run's own configuration.
SAVE_EVERY_S = 10.0
#: Problems that a worker keeps.
CACHED_PROBLEMS = 8
#: Files of a checkpoint.
STATE, LOG = "state.pt", "log"

_problems: dict[tuple[Payload, int, tuple[int, ...]], tuple[BilevelProblem, float]] = {}


class TaskTrial(Trainable):
    """A trial on one problem of a task; `trainable` makes the class of a Tuner.

    Attributes:
        payload: the task and the method, as they are sent to workers.
        seed: seeds the task's sample, and every random draw of a descent.
        budget: gradient evaluations of a descent.
    """

    payload: ClassVar[Payload]
    seed: ClassVar[int]
    budget: ClassVar[float]

    def setup(self, config: dict[str, Any]) -> None:
        """Begin at a configuration: values by flat name, the initial ones elsewhere."""
        self._task, self._method = _opened(self.payload)
        self._point = point_of(self._task.space, config)
        self._problem, flops = self._sampled()
        self._metrics = TrialMetrics(flops)
        self._saved = time.monotonic()
        self._begin()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin again in this process, which has torch and the problem already."""
        self.cleanup()
        self.setup(new_config)
        return True

    def _begin(self) -> None:
        raise NotImplementedError

    def _result(self, report: Report, *, over: bool) -> dict[str, Any]:
        """What Tune is told, and that a checkpoint is due."""
        result = {**self._metrics.of(report), DONE: over}
        if not over and time.monotonic() - self._saved > SAVE_EVERY_S:
            self._saved = time.monotonic()
            result[SHOULD_CHECKPOINT] = True
        return result

    def _sampled(self) -> tuple[BilevelProblem, float]:
        """The problem at the options of the trial, and the flops of a step."""
        key = self.payload, self.seed, choice_key(self._task, self._point)
        if key not in _problems:
            while len(_problems) >= CACHED_PROBLEMS:
                del _problems[next(iter(_problems))]  # the oldest
            problem = sample_problem(self._task, self.seed, self._point)
            space = self._task.space
            hparams = space.trim(space.initial(device=problem.device))
            _problems[key] = problem, step_flops(problem, hparams)
        return _problems[key]


class TrainingTrial(TaskTrial):
    """A training run at constant λ, or as the trials of a search method train.

    Each step goes on to the next of the method's rungs.
    """

    _steps: int
    _spent: float
    _state: State

    def step(self) -> dict[str, Any]:
        """Train to the next rung; the report there."""
        task, method = self._task, self._method
        assert isinstance(method, SearchMethod)
        rung = next(r for r in method.rungs(task) if r > self._steps)
        start = self._steps, self._state
        train = method.train(task, self._problem, self._point, start, (rung,))
        ((found, self._state),) = self._stopwatch.over(train)
        self._steps, self._spent = rung, self._spent + found.gradient_evals
        report = found._replace(
            hparams=task.space.parse(found.hparams),
            gradient_evals=self._spent,
            wall_s=self._stopwatch.seconds,
        )
        over = report.complete or not math.isfinite(report.outer_loss)
        return self._result(report, over=over)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Where training stands.

        Raises:
            ValueError: the training state holds what no file of tensors can.
        """
        saved = {
            "steps": self._steps,
            "spent": self._spent,
            "seconds": self._stopwatch.seconds,
            "state": tree_leaves(self._state),
        }
        save_tensors(Path(checkpoint_dir) / STATE, saved)

    def load_checkpoint(self, checkpoint: dict | str | None) -> None:
        """Go on from where a trial stood, at this one's λ.

        Raises:
            ValueError: the training state is that of other options.
        """
        assert isinstance(checkpoint, str)
        saved = load_tensors(Path(checkpoint) / STATE)
        leaves, spec = flatten(self._state)
        shapes = [_shape(leaf) for leaf in saved["state"]]
        if shapes != [_shape(leaf) for leaf in leaves]:
            raise ValueError(
                "a trial goes on from a training state of its own shape, but this one "
                "was made at other options: leave choices that decide what is trained "
                "out of what the scheduler changes"
            )
        self._state = unflatten(saved["state"], spec)
        self._steps, self._spent = saved["steps"], saved["spent"]
        self._stopwatch.freeze(saved["seconds"])

    def _begin(self) -> None:
        assert isinstance(self._method, SearchMethod)
        self._stopwatch = Stopwatch()
        self._steps, self._spent = 0, 0.0
        self._state = self._method.begin(self._task, self._problem, self._point)


class DescentTrial(TaskTrial):
    """A hypergradient descent that starts at the configuration's λ.

    Each step is one report. A checkpoint is the log of what was evaluated, of which
    the same descent is played again, see `ReplayingEvaluator`.
    """

    def step(self) -> dict[str, Any]:
        """Descend to the next report; nothing new where there is none."""
        report = self._next()
        if report is None:
            return {DONE: True, RESULT_DUPLICATE: True}
        return self._result(report, over=False)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """What was evaluated, and how many reports were given."""
        folder = Path(checkpoint_dir)
        shutil.copytree(self._folder, folder / LOG)
        save_tensors(folder / STATE, {"said": self._said})

    def load_checkpoint(self, checkpoint: dict | str | None) -> None:
        """Go on after the reports that were given."""
        assert isinstance(checkpoint, str)
        said = load_tensors(Path(checkpoint) / STATE)["said"]
        self.cleanup()
        self._open(Path(checkpoint) / LOG)
        while self._said < said and (report := self._next()) is not None:
            self._metrics.of(report)

    def cleanup(self) -> None:
        """Remove the log."""
        self._evaluator.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _begin(self) -> None:
        self._open(None)

    def _open(self, log: Path | None) -> None:
        """Begin, with a log to play first."""
        self._folder = Path(tempfile.mkdtemp(prefix="raymeta-"))
        if log is not None:
            shutil.copytree(log, self._folder, dirs_exist_ok=True)
        self._said = 0
        self._reports = self._descent()

    def _next(self) -> Report | None:
        """The next report, None at the end."""
        while True:
            try:
                report = next(self._reports, None)
                if report is None:
                    self._evaluator.end()
            except ReplayMismatch:  # of another version, or at another λ: anew
                self._reports = self._descent()
                for _ in range(self._said):
                    next(self._reports)
                continue
            if report is None:
                return None
            self._said += 1
            return report._replace(
                hparams=self._task.space.parse(report.hparams),
                wall_s=self._stopwatch.seconds,
            )

    def _descent(self) -> Iterator[Report]:
        """All reports from the first."""
        method, task = self._method, starting_at(self._task, self._point)
        assert isinstance(method, DescentMethod)
        key = StudyKey(task.name, method.name, self.seed)
        run = TrialSpec(study=key, number=0, kind="descent", budget=self.budget)
        log = EvaluationLog(self._folder, signature_of(run, {}, self._task, method))
        self._stopwatch = Stopwatch()
        self._evaluator = ReplayingEvaluator(log, self._stopwatch)
        reports = method.reports(
            task, self._problem, self.seed, self.budget, self._evaluator
        )
        return self._stopwatch.over(reports)


def point_of(space: Space, config: Mapping[str, Any]) -> Point:
    """A point from a Tuner's configuration.

    Args:
        space: the task's.
        config: values by name, as `raymeta.tune.space` names them, or as dictionaries
            within each other where a name has slashes; the initial value where one is
            left out.

    Raises:
        ValueError: an unknown name, or a value that its hyperparameter cannot have.
    """
    names = {known: name for name, known in tune_names(space).items()}
    given = {names.get(k, k): v for k, v in flatten_dict(dict(config)).items()}
    for name in given:
        if name not in names.values():
            raise unknown_name("hyperparameter", name, list(names))
    return space.parse(space.initial_point() | given)


def starting_at(task: Task, point: Point) -> Task:
    """The task with a point in the place of the initial values, at its options.

    Raises:
        ValueError: a descent cannot start there, see `Continuous`.
    """
    space = task.space
    if point == space.parse(space.initial_point()):
        return task
    hparams = space.hparams(point, dtype=torch.float64)
    moved: dict[str, Any] = dict(space.at(hparams))
    for name in moved.keys() & space.continuous:
        moved[name] = replace(moved[name], initial=hparams[name])
    return Conditioned(task, Space(**moved, when={}))


@lru_cache(maxsize=1)
def _opened(payload: Payload) -> tuple[Task, Method]:
    return payload.open()


def _shape(leaf: Any) -> tuple[int, ...] | None:
    return tuple(leaf.shape) if isinstance(leaf, torch.Tensor) else None
