"""Comparisons without a cluster."""

import contextlib
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

from raymeta.search import worker
from raymeta.search.black_box import course_of
from raymeta.search.frame import to_frame
from raymeta.search.journal import open_journal
from raymeta.search.ledger import Ledger
from raymeta.search.plan import make_plan

sys.path.insert(0, str(Path(__file__).parent))
import search_toys

# Workers cannot import what lies among the tests.
cloudpickle.register_pickle_by_value(search_toys)


@pytest.fixture(autouse=True)
def _no_cached_problems():
    worker._problems.clear()
    worker._fingerprints.clear()


class Bench:
    """A comparison that runs in this process, one trial after the other."""

    def __init__(self, ledger, journal):
        self.ledger, self.journal = ledger, journal

    @property
    def courses(self):
        return list(self.ledger.courses.values())

    def run(self):
        """Run everything to the end, as workers would."""
        while run := self.ledger.ask():
            self.play(run)
        assert self.ledger.finished
        return self

    def play(self, run):
        """Run one trial to its end."""
        course = self.ledger.courses[run.cell]
        for message in worker.messages_of(run, course.cell.task, course.cell.method):
            if self.ledger.tell(run, [message], last=False):
                return
        self.ledger.tell(run, [], last=True)

    def frame(self):
        return to_frame(self.courses)


@pytest.fixture
def bench(tmp_path):
    """Build a `Bench`: bench(tasks, methods, budget, seeds, events to replay)."""
    with contextlib.ExitStack() as stack:

        def build(tasks, methods, budget=None, seeds=1, events=()):
            plan = make_plan(tasks, methods, budget, seeds)
            path = tmp_path / f"journal-{len(list(tmp_path.iterdir()))}.jsonl"
            journal = stack.enter_context(open_journal(path))
            for event in events:
                journal.write(event)
            ledger = Ledger(map(course_of, plan.cells()), journal)
            ledger.replay(journal.read())
            return Bench(ledger, journal)

        yield build
