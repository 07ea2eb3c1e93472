"""Comparisons without a cluster."""

import contextlib
import math
import random
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

from raymeta.results.jsonlines import JsonLines
from raymeta.search.frame import to_frame
from raymeta.search.plan import make_plan
from raymeta.search.study.coordinator import Coordinator
from raymeta.search.tune.search_study import study_of
from raymeta.search.worker import trial_runner
from raymeta.testing.in_process import run_trial

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import search_toys

# Workers cannot import what lies among the tests.
cloudpickle.register_pickle_by_value(search_toys)


@pytest.fixture(autouse=True)
def _no_cached_problems():
    trial_runner._problems.clear()
    trial_runner._fingerprints.clear()


class Bench:
    """A comparison that runs in this process, one trial after the other."""

    def __init__(self, coordinator, journal):
        self.coordinator, self.journal = coordinator, journal

    @property
    def studies(self):
        return list(self.coordinator.studies.values())

    def run(self):
        """Run everything to the end, as workers would."""
        while run := self.coordinator.request_trial():
            self.play(run)
        assert self.coordinator.finished
        return self

    def run_many(self, slots, seed=0, events=math.inf):
        """The same with many in flight, of which any may say something next.

        Args:
            slots: how many.
            seed: seeds who comes next.
            events: after how many reports to stop.
        """
        who, flying = random.Random(seed), []
        while True:
            while len(flying) < slots and (run := self.coordinator.request_trial()):
                spec = self.coordinator.studies[run.study].spec
                said = trial_runner.reports_of(run, spec.task, spec.method)
                flying.append((run, said))
            if not flying or events <= 0:
                return self
            events -= 1
            run, said = who.choice(flying)
            report = next(said, None)
            reports = [] if report is None else [report]
            if self.coordinator.record(run, reports, last=report is None):
                flying.remove((run, said))

    def play(self, run, states=None):
        """Run one trial to its end."""
        run_trial(self.coordinator, run, states)

    def frame(self):
        return to_frame(self.studies)

    def results(self):
        """The frame without times."""
        return self.frame().drop(columns="wall_s")


@pytest.fixture
def bench(tmp_path):
    """Build a `Bench`: bench(tasks, methods, budget, seeds, events, at_once, grown).

    The events are replayed first, where it is grown as those of smaller budgets.
    """
    with contextlib.ExitStack() as stack:

        def build(
            tasks, methods, budget=None, seeds=1, events=(), at_once=1, grown=False
        ):
            plan = make_plan(tasks, methods, budget, seeds, at_once)
            path = tmp_path / f"journal-{len(list(tmp_path.iterdir()))}.jsonl"
            journal = stack.enter_context(contextlib.closing(JsonLines(path)))
            for event in events:
                journal.append(event)
            coordinator = Coordinator(map(study_of, plan.study_specs()), journal)
            coordinator.replay(journal.read(), coordinator.studies if grown else ())
            return Bench(coordinator, journal)

        yield build
