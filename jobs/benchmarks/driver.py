"""What trials cost the driver of a comparison, without Ray: its own bookkeeping."""

import os
import random
import statistics
import time
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch

from raymeta import Positive, Space
from raymeta.optim import sgd
from raymeta.outer.report import Report
from raymeta.problem import BilevelProblem, descent
from raymeta.results.jsonlines import JsonLines
from raymeta.search.frame import to_frame
from raymeta.search.plan import Plan, make_plan
from raymeta.search.spec import TrialSpec
from raymeta.search.study.coordinator import Coordinator
from raymeta.search.study.report_columns import ReportColumns
from raymeta.search.study.study import Study
from raymeta.search.tune.search_study import study_of
from raymeta.search.worker import trial_runner

#: Seconds that a trial, an ask and a frame of `FRAME_REPORTS` may take the driver.
TRIAL_S, ASK_S, FRAME_S = 5e-3, 1e-3, 2.0
FRAME_REPORTS = 100_000


class Trivial:
    """One step on one number."""

    name: ClassVar[str] = "trivial"
    horizon: ClassVar[int] = 1
    budget: ClassVar[float] = 100.0
    space: ClassVar[Space] = Space(lr=Positive(0.1, low=0.01, high=1.0))

    def sample(self, seed: int) -> BilevelProblem:
        """(w - lr w)² from w = 1."""
        return descent(
            init_params=lambda hparams: {"w": torch.ones(())},
            inner_loss=lambda params, hparams, batch: params["w"] ** 2 / 2,
            outer_loss=lambda params, hparams: params["w"] ** 2,
            optimizer=lambda hparams: sgd(lr=hparams["lr"]),
        )


class Driver(NamedTuple):
    """What trials cost a driver.

    Attributes:
        measured: how many there were.
        trial_s: seconds of the driver for one, on average.
        trial_bytes: bytes of its memory that stay.
        trial_disk: bytes of journal and frame.
        growth_s: seconds by which a trial costs more than the one before, in a study.
        save_s: seconds to write the frame of all of them.
    """

    measured: int
    trial_s: float
    trial_bytes: float
    trial_disk: float
    growth_s: float
    save_s: float

    def seconds(self, trials: int) -> float:
        """Seconds of the driver for so many trials in one study."""
        first = self.trial_s - self.growth_s * self.measured / 2
        return trials * (max(first, 0.0) + self.growth_s * trials / 2)


def plan_of(trials: int) -> Plan:
    """Random search with a budget for so many trials, and one for the test set."""
    one = make_plan(Trivial(), "random", None, 1).study_specs()[0].full_run
    return make_plan(Trivial(), "random", (trials + 1) * one, 1)


def drive(trials: int, in_flight: int, folder: Path) -> Driver:
    """Measure the driver's own part, without Ray: coordinator, journal and frame.

    So many trials are in flight, of which any may be over next.
    """
    plan = plan_of(trials)
    task, method = plan.tasks[0], plan.methods[0]
    with closing(JsonLines(folder / "journal.jsonl")) as journal:
        coordinator = Coordinator(
            [study_of(spec) for spec in plan.study_specs()], journal
        )
        seconds: list[float] = []
        ends: list[int] = []  # how many of them when a trial is over
        flying: list[TrialSpec] = []
        who = random.Random(0)
        before = resident()
        while True:
            while len(flying) < in_flight:
                if not (run := timed(coordinator.request_trial, seconds)):
                    break
                flying.append(run)
            if not flying:
                break
            run = flying.pop(who.randrange(len(flying)))
            said = list(trial_runner.reports_of(run, task, method))
            timed(partial(coordinator.record, run, said, True), seconds)
            ends.append(len(seconds))
        grown = resident() - before
    done = len(ends)
    frame = partial(to_frame, coordinator.studies.values())
    saving: list[float] = []
    timed(lambda: frame().to_parquet(folder / "frame.parquet"), saving)
    disk = sum(path.stat().st_size for path in folder.iterdir())
    tenth = done // 10  # without the first trial, before which all slots were filled
    early = sum(seconds[ends[0] : ends[tenth]])
    late = sum(seconds[ends[-tenth - 1] :])
    return Driver(
        measured=done,
        trial_s=sum(seconds) / done,
        trial_bytes=grown / done,
        trial_disk=disk / done,
        growth_s=max(late - early, 0.0) / tenth / (0.9 * done),
        save_s=saving[0],
    )


def timed(function: Callable[[], Any], seconds: list[float]) -> Any:
    """What it returns; seconds of the processor are appended.

    In those of a clock would be whatever else this machine does.
    """
    start = time.process_time()
    result = function()
    seconds.append(time.process_time() - start)
    return result


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Bookkeeping(NamedTuple):
    """What a driver pays for what is there already.

    Attributes:
        cells: how many studies had finished.
        ask_s: seconds to ask for a trial beside them, the median.
        reports: how many reports the frame has.
        frame_s: seconds to put it together.
        report_bytes: memory of a report, as a study keeps it.
        object_bytes: memory of the same report as an object with its dictionaries.
    """

    cells: int
    ask_s: float
    reports: int
    frame_s: float
    report_bytes: float
    object_bytes: float


def keep_books(cells: int, reports: int, folder: Path) -> Bookkeeping:
    """Measure asks beside finished studies, a large frame, and its reports' memory."""
    study = study_of(plan_of(reports).study_specs()[0])
    for number in range(reports):
        study.reports.append((number, random_report(study, number)))
    frame_s: list[float] = []
    timed(partial(to_frame, [study]), frame_s)
    return Bookkeeping(
        cells=cells,
        ask_s=statistics.median(asks(cells, folder)),
        reports=reports,
        frame_s=frame_s[0],
        report_bytes=held_bytes(ReportColumns, study),
        object_bytes=held_bytes(list, study),
    )


def asks(cells: int, folder: Path, count: int = 1_000) -> list[float]:
    """Seconds of each ask of a study, where so many others have finished."""
    plan = make_plan(Trivial(), "random", None, 1 + cells)
    *others, last = plan.study_specs()
    finished = [study_of(spec) for spec in others]
    for study in finished:
        end(study)
    budget = count * last.full_run
    (spec,) = make_plan(Trivial(), "random", budget, (last.seed,)).study_specs()
    seconds: list[float] = []
    with closing(JsonLines(folder / "asks.jsonl")) as journal:
        study = study_of(spec)
        coordinator = Coordinator([*finished, study], journal)
        while run := timed(coordinator.request_trial, seconds):
            coordinator.record(run, [random_report(study, run.number)], True)
    return seconds


def end(study: Study) -> None:
    """Run a study to its end."""
    while run := study.request_trial():
        study.record(run.number, [random_report(study, run.number)], last=True)
    assert study.finished


def random_report(study: Study, number: int) -> Report:
    """What a trivial trial says, with numbers of its own, as from a journal."""
    draw = random.Random(number).random
    return Report(
        outer_step=1,
        inner_steps=Trivial.horizon,
        gradient_evals=study.spec.full_run,
        outer_loss=draw(),
        complete=True,
        hparams={"lr": 0.01 + 0.9 * draw()},
        wall_s=draw(),
    )


def held_bytes(collect: Callable[[Any], Any], study: Study) -> float:
    """Bytes that a report of a study takes in a collection."""
    count = min(len(study.reports), 10_000)
    tracemalloc.start()
    try:
        held = collect((n, random_report(study, n)) for n in range(count))
        size, _ = tracemalloc.get_traced_memory()
        assert len(held) == count
    finally:
        tracemalloc.stop()
    return size / count


def target_lines(driver: Driver, books: Bookkeeping) -> list[str]:
    """What was measured beside what is aimed at, as a table."""
    rows = [
        ("driver, a trial without Ray", driver.trial_s, TRIAL_S),
        (f"ask beside {books.cells:,} finished cells", books.ask_s, ASK_S),
        (f"to_frame of {books.reports:,} reports", books.frame_s, FRAME_S),
    ]
    lines = ["  | | measured | at most | |", "  |---|---|---|---|"]
    for name, took, most in rows:
        verdict = "reached" if took <= most else "MISSED"
        lines.append(f"  | {name} | {span(took)} | {span(most)} | {verdict} |")
    return [
        *lines,
        f"  | memory of a report | {books.report_bytes:,.0f} bytes | | "
        f"{books.object_bytes:,.0f} as an object |",
        f"  | memory of a trial, all in all | {driver.trial_bytes:,.0f} bytes | | |",
    ]


def span(seconds: float) -> str:
    """Seconds, or thousandths of them, for people."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
