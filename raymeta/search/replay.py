"""Replay of a run from its folder: does it still give the numbers that it recorded?

Of a comparison each trial is trained again by itself, as its journal says that it was
asked for; of an optimization the descent. Nothing is written.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from raymeta import tasks as task_registry
from raymeta.errors import said, unknown_name
from raymeta.hypergrad.registry import ESTIMATORS
from raymeta.outer.arguments import estimator_of
from raymeta.outer.auto import AUTO
from raymeta.outer.optimize import descended
from raymeta.outer.report import Report
from raymeta.results.integrity import DamagedFile, read_parquet
from raymeta.results.jsonlines import JsonLines
from raymeta.results.mirror import address, local
from raymeta.results.records import read_record
from raymeta.runtime.progress import Progress
from raymeta.runtime.source_code import changed, code_of, listed
from raymeta.search.methods import METHODS, Method, resolve
from raymeta.search.plan import Plan, make_plan
from raymeta.search.resume import require_settings
from raymeta.search.spec import StudyKey, TrialSpec
from raymeta.search.study.coordinator import described, requested, standing
from raymeta.search.study.study import Study
from raymeta.search.tune.quiet import quiet_tune
from raymeta.search.tune.search_study import study_of
from raymeta.search.worker.trial_runner import reports_of
from raymeta.tasks import Task

#: Columns of a frame that say when, not what.
TIMES = ("wall_s",)


def replay(
    folder: str | Path,
    trials: str | Sequence[str] | None = None,
    *,
    tasks: str | Task | Sequence[str | Task] = (),
    methods: str | Method | Sequence[str | Method] = (),
    estimator: Any = None,
    trust: bool = False,
    progress: bool | Callable[[str], None] = True,
) -> pd.DataFrame:
    """Trials of a finished or interrupted run, trained again in this process.

    Each is trained as it was asked for, from initial weights on, in one thread as
    workers do; what it reports must be what was recorded, to the last bit: losses, λ,
    steps, costs, metrics of the test set, and digests of what it trained on. Another
    machine, torch or data may round otherwise: that is what it tells. What ran
    on several workers sums in their order, and can differ in the last bits.

    Args:
        folder: the folder of a comparison or an optimization, or its address on an
            object store.
        trials: of a comparison those to train, `task/method/seed/number`, or
            `task/method/seed` for all of a study, `task` for all on it, or a list of
            these; all by default.
        tasks: those that are not known by name: objects, or `path.py:Name`.
        methods: likewise of a comparison.
        estimator: of an optimization, where it is none of those by name.
        trust: whether to run the task files that the folder names: only for a folder
            of your own.
        progress: whether to print progress, or what takes its lines.

    Returns:
        One row per trial: `task`, `method`, `seed`, `trial`, the number of `reports`,
        `outer_loss` as it was recorded last and `again` as it is now, `identical`, and
        `differs`: what does first, "" where nothing does.

    Raises:
        ValueError: the folder has no such run or trial, or is damaged; a task or a
            method is not known here, or is not as it was.
    """
    display = Progress(progress)
    with local(str(folder)) as path, _one_thread():
        if record := read_record(path, "comparison"):
            given = _Given(path, record, _listed(tasks), _listed(methods), trust)
            return _comparison(given, _listed(trials or ()), display)
        if record := read_record(path, "optimization"):
            given = _Given(path, record, _listed(tasks), (), trust)
            if trials:
                raise ValueError(
                    f"{address(path)} is an optimization, which is one trial, but got "
                    f"trials={trials!r}: leave it out"
                )
            return _optimization(given, estimator, display)
        raise ValueError(
            f"a replay needs the folder of a comparison or an optimization, but "
            f"{address(path)} has no comparison.json and no optimization.json: give "
            "results/NAME of one"
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _listed(given: Any) -> Sequence[Any]:
    single = isinstance(given, str) or not isinstance(given, Sequence)
    return (given,) if single else given


@dataclass(frozen=True)
class _Given:
    """A run's folder and record, and what its user says of it.

    Attributes:
        tasks: those that are not known by name.
        methods: likewise.
    """

    path: Path
    record: Mapping[str, Any]
    tasks: Sequence[Any]
    methods: Sequence[Any]
    trust: bool

    def task(self, name: str) -> Task:
        """The task of this name.

        Raises:
            ValueError: it is not known, or in a file that is not trusted.
        """
        for task in map(task_registry.resolve, self.tasks):
            if task.name == name:
                return task
        source = self.record["runs"][-1:]
        file = source[0].get("task_files", {}).get(name) if source else None
        if file is None and name in task_registry.names():
            return task_registry.resolve(name)
        if file is None:
            raise ValueError(
                f"{address(self.path)} is of the task {said(name)}, which is none by "
                "name: give it by --task path.py:Name, or raymeta.replay(…, tasks=[…])"
            )
        if not self.trust:
            raise ValueError(
                f"task {name!r} is in a file, {said(file)} as {address(self.path)} has "
                "it, which is not run on its word: name it with --task path.py:Name, "
                "or give --trust to run what the folder names"
            )
        return task_registry.resolve(file)

    def method(self, name: str) -> Method:
        """The method of this name.

        Raises:
            ValueError: it is not known.
        """
        for method in map(resolve, self.methods):
            if method.name == name:
                return method
        if name not in METHODS:
            raise ValueError(
                f"{address(self.path)} compares {said(name)}, which is no method of "
                "raymeta: give it by raymeta.replay(…, methods=[…])"
            )
        return METHODS[name]


@dataclass
class _Trial:
    """A trial of a comparison: what was asked for, and what was then said.

    Attributes:
        runs: its parts; a paused trial has several.
    """

    key: StudyKey
    number: int
    runs: list[tuple[TrialSpec, list[dict[str, Any]]]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.key}/{self.number}"

    def is_of(self, name: str) -> bool:
        """Whether this name, of a trial or of what has it, stands for it."""
        return f"{self}/".startswith(f"{name.rstrip('/')}/")


def _comparison(given: _Given, names: Sequence[str], display: Progress) -> pd.DataFrame:
    plan = _plan(given)
    events = standing(JsonLines(_journal(given.path)).read())
    with quiet_tune():
        studies = {spec.key: study_of(spec) for spec in plan.study_specs()}
        found = _trials(given.path, studies, events)
    for name in names:
        if not any(trial.is_of(name) for trial in found):
            known = [*dict.fromkeys(str(t.key) for t in found), *map(str, found)]
            raise unknown_name("trial", name, known[:40])
    chosen = [t for t in found if not names or any(map(t.is_of, names))]
    display.print(_changes(given, plan))
    rows = []
    for number, trial in enumerate(chosen):
        done = f"{number} of {len(chosen)} trials, now {trial}"
        display.update(partial(_shortened, done))
        spec = studies[trial.key].spec
        rows.append(_row(trial, spec.task, spec.method))
    columns = ["task", "method", "seed", "trial", "reports", "outer_loss", "again"]
    return pd.DataFrame(rows, columns=[*columns, "identical", "differs"])


def _shortened(line: str, width: int) -> list[str]:
    return [line[:width]]


def _journal(folder: Path) -> Path:
    journal = folder / "journal.jsonl"
    if not journal.exists():
        raise DamagedFile(journal, "it is gone, and says what trials were asked for")
    return journal


def _plan(given: _Given) -> Plan:
    """The comparison, as its record says."""
    then = given.record
    plan = make_plan(
        [given.task(name) for name in then["tasks"]],
        [given.method(name) for name in then["methods"]],
        None,
        then["seeds"],
        then["at_once"],
        then["workers_per_trial"],
    )
    plan = replace(plan, budgets=dict(then["budgets"]))
    require_settings(given.path, then, json.loads(json.dumps(plan.settings())))
    return plan


def _changes(given: _Given, plan: Plan) -> list[str]:
    """A line where code is not what it was."""
    code = code_of(plan.tasks, plan.methods)
    differ = changed(given.record.get("code") or {}, code, whole=False)
    return [f"since then {listed(differ)} changed"] if differ else []


def _trials(
    path: Path, studies: Mapping[StudyKey, Study], events: Sequence[dict[str, Any]]
) -> list[_Trial]:
    """The trials of a journal that have said something, study by study."""
    trials: dict[tuple[StudyKey, int], _Trial] = {}
    for event in events:
        key = StudyKey(*event["study"])
        if (study := studies.get(key)) is None:
            continue
        number = event["trial"]
        trial = trials.setdefault((key, number), _Trial(key, number))
        if event["event"] == "reports":
            trial.runs[-1][1].extend(event["reports"])
            reports = [Report(**report) for report in event["reports"]]
            study.record(number, reports, event["last"])
            continue
        again = number in study.running
        run = requested(study, event)
        if run is None or described(run) != event:
            raise ValueError(
                f"study {key} of {address(path)} cannot be followed, for code or a "
                f"library has changed: its journal says {event}, its search now says "
                f"{described(run)}; install what the comparison ran with"
            )
        if again:
            trial.runs.pop()  # its worker had died: it was run again from its start
        trial.runs.append((run, []))
    found = [t for t in trials.values() if any(reports for _, reports in t.runs)]
    order = {key: place for place, key in enumerate(studies)}
    return sorted(found, key=lambda trial: (order[trial.key], trial.number))


def _row(trial: _Trial, task: Task, method: Method) -> tuple[Any, ...]:
    differs, recorded, again, count = "", float("nan"), float("nan"), 0
    for run, reports in trial.runs:
        trained = islice(reports_of(run, task, method), len(reports))
        for report in reports:
            now = next(trained, None)
            count += 1
            recorded = report["outer_loss"]
            again = float("nan") if now is None else now.outer_loss
            difference = _difference(report, now)
            if difference and not differs:
                differs = f"report {count}: {difference}"
    return (*trial.key, trial.number, count, recorded, again, not differs, differs)


def _difference(then: Mapping[str, Any], report: Report | None) -> str:
    """What differs first between a report and its record; "" where nothing does."""
    if report is None:
        return "there is none now"
    now = json.loads(json.dumps(report.travelling()))
    for name, value in now.items():
        if name in TIMES or name not in then:
            continue
        if json.dumps(then[name], sort_keys=True) != json.dumps(value, sort_keys=True):
            return f"{name} was {then[name]} and is {value}"
    return ""


def _optimization(given: _Given, estimator: Any, display: Progress) -> pd.DataFrame:
    record, file = given.record, given.path / "frame.parquet"
    if not file.exists():
        raise ValueError(
            f"{address(given.path)} has no frame.parquet yet: let the optimization end"
        )
    then = read_parquet(file)
    task = given.task(record["task"])
    known = _estimator(given, task, estimator)
    display.print([f"{task.name} by {type(known).__name__}, {len(then)} reports"])
    result = descended(
        task,
        known,
        hyper_lr=record["hyper_lr"],
        budget=record["budget"],
        seed=record["seed"],
        progress=None,
    )
    differs = _differing(then, result.frame)
    last, now = then["outer_loss"].iloc[-1], result.frame["outer_loss"].iloc[-1]
    return pd.DataFrame(
        [
            {
                "task": task.name,
                "method": result.method,
                "seed": result.seed,
                "trial": 0,
                "reports": len(then),
                "outer_loss": last,
                "again": now,
                "identical": not differs,
                "differs": differs,
            }
        ]
    )


def _estimator(given: _Given, task: Task, estimator: Any) -> Any:
    """The estimator of an optimization: that whose repr its record has."""
    then = given.record["estimator"]
    names = [AUTO, *ESTIMATORS] if estimator is None else [estimator]
    for name in names:
        found = estimator_of(name, task.horizon)
        if repr(found) == then:
            return found
    raise ValueError(
        f"{address(given.path)} is by {said(then)}, which is no estimator by name and "
        "its default settings: give it by --estimator path.py:Name, or "
        "raymeta.replay(…, estimator=…)"
    )


def _differing(then: pd.DataFrame, now: pd.DataFrame) -> str:
    """The first cell in which two frames differ; "" where none does."""
    if len(then) != len(now):
        return f"{len(then)} reports were recorded, and there are {len(now)} now"
    for name in then.columns:
        if name in TIMES:
            continue
        if name not in now:
            return f"column {name} was recorded, and is not there now"
        old, new = then[name], now[name]
        apart = ~((old == new) | (old.isna() & new.isna()))
        if apart.any():
            row = int(apart.to_numpy().argmax())
            return (
                f"report {row + 1}: {name} was {old.iloc[row]} and is {new.iloc[row]}"
            )
    return ""
