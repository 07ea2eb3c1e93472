"""Conformance suites of a comparison's methods."""

import dataclasses
import itertools
import math
import pickle
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from ray.tune import TuneConfig

from raymeta.outer.report import plain_run
from raymeta.results.jsonlines import JsonLines
from raymeta.results.schema import FAMILIES, HYBRID
from raymeta.search import to_tune
from raymeta.search.frame import to_frame
from raymeta.search.methods import DescentMethod, Method, SearchMethod
from raymeta.search.plan import make_plan
from raymeta.search.spec import StudyKey, TrialSpec
from raymeta.search.study.coordinator import Coordinator
from raymeta.search.tune.isolated_rng import IsolatedGlobalRNG
from raymeta.search.tune.quiet import quiet_tune
from raymeta.search.tune.search_study import study_of
from raymeta.search.worker import trial_runner
from raymeta.search.worker.trial_store import TrialStore
from raymeta.space import Choice, Positive, Real, Space, Unit
from raymeta.tasks import Digits, Quadratic
from raymeta.tasks.base import Task
from raymeta.testing.in_process import run_trial
from raymeta.testing.kill import Computed, Killed, untimed

#: Enough to leave the random start of a search that builds a model.
TRIALS = 25
HORIZONS = [1, 2, 8, 9, 10, 27, 100, 200, 1000]
#: What the budget on the quadratic covers: full runs enough for a bracket of HyperBand
#: or two populations of PB2; their training steps, and their outer losses.
RUNS, RUN = 12, 20 + 10 / 3


@dataclass(frozen=True)
class EveryDomain:
    """A task with every kind of hyperparameter, of which only the space is used."""

    name: str = "every-domain"
    horizon: int = 100
    budget: float = 1000.0
    space: Space = dataclasses.field(
        default_factory=lambda: Space(
            lr=Positive(0.1, low=1e-4, high=10.0, shape=(2,)),
            momentum=Unit(0.9, high=0.99),
            shift=Real(-1.0, low=-2.0, high=3.0),
            kind=Choice([None, "a", 3], initial="a"),
        )
    )


TASK: Any = EveryDomain()


class MethodConformance:
    """What every method must be.

    Fixtures:
        method: the method.
    """

    @pytest.fixture
    def method(self) -> Any:
        raise NotImplementedError

    def test_it_is_a_value_that_travels(self, method: Method) -> None:
        assert method.family in FAMILIES
        assert dataclasses.is_dataclass(method)
        assert hash(method) == hash(pickle.loads(pickle.dumps(method)))
        assert pickle.loads(pickle.dumps(method)) == method

    def test_it_says_what_it_does(self, method: Method) -> None:
        assert method.summary.endswith(".")


class SearchConformance(MethodConformance):
    """What every method must do that suggests trials: black-box search, and hybrids.

    class TestMySearch(SearchConformance):
        @pytest.fixture
        def method(self):
            return MySearch()
    """

    def test_its_config_minimizes_the_outer_loss(self, method: SearchMethod) -> None:
        config = method.tune_config(TASK, 0)
        assert isinstance(config, TuneConfig)
        assert (config.metric, config.mode) == ("outer_loss", "min")
        if config.scheduler is not None:
            assert config.scheduler.set_search_properties("outer_loss", "min")

    def test_its_rungs_increase_to_the_horizon(self, method: SearchMethod) -> None:
        for horizon in HORIZONS:
            task: Any = EveryDomain(horizon=horizon)
            rungs = method.rungs(task)
            assert list(rungs) == sorted(set(rungs))
            assert rungs[0] >= 1
            assert rungs[-1] == horizon

    def test_what_is_in_flight_together_depends_on_no_result(
        self, method: SearchMethod
    ) -> None:
        ahead = method.ahead(TASK, runs=30.0)
        assert ahead == math.inf or type(ahead) is int
        count = int(min(ahead, TRIALS))
        assert count >= 1
        alone = suggestions(method, seed=0, count=count)
        assert suggestions(method, seed=0, count=count, told=False) == alone

    def test_the_initial_point_comes_first(self, method: SearchMethod) -> None:
        assert suggestions(method, seed=0, count=1)[0] == TASK.space.initial_point()

    def test_suggestions_lie_in_the_space_and_differ(
        self, method: SearchMethod
    ) -> None:
        domains = TASK.space.flat_domains()
        points = suggestions(method, seed=0)
        for point in points:
            assert set(point) == set(domains)
            for flat, domain in domains.items():
                if isinstance(domain, Choice):
                    assert point[flat] in domain.options
                else:
                    assert domain.low <= point[flat] <= domain.high
        assert len({tuple(point[n] for n in domains) for point in points}) == TRIALS
        assert {point["kind"] for point in points} == {None, "a", 3}

    def test_the_seed_decides(self, method: SearchMethod) -> None:
        first, again, other = (suggestions(method, seed, 15) for seed in (1, 1, 2))
        assert first == again
        assert first[1:] != other[1:]

    def test_it_starts_at_the_initial_point_and_finds_better(
        self, method: SearchMethod
    ) -> None:
        frame, task = _once(method).frame, Quadratic()
        start = task.space.initial_point()
        assert {n: frame[f"hp/{n}"][0] for n in start} == pytest.approx(start)
        complete = frame[frame.status == "complete"]
        first = complete[complete.trial == 0]
        _, initial = plain_run(task.sample(0), task.space.initial(), task.horizon)
        assert frame.best_outer_loss.min() < initial
        if len(first) and not method.pauses:
            assert first.outer_loss.iloc[0] == pytest.approx(initial, rel=1e-6)

    def test_it_spends_its_budget_to_less_than_a_run(
        self, method: SearchMethod
    ) -> None:
        frame, run, task = _once(method).frame, 30.0, Quadratic()
        if method.family == HYBRID:
            run = method.min_budget(task, task.sample(0))
        assert frame.gradient_evals.is_monotonic_increasing
        assert RUNS * RUN - run < frame.gradient_evals.max() <= RUNS * RUN

    def test_the_final_run_finds_the_recorded_value_again(
        self, method: SearchMethod
    ) -> None:
        frame = _once(method).frame
        final = frame.iloc[-1]
        assert (final.status, final.failure) == ("final", "")
        assert final.outer_loss == frame.best_outer_loss.min()

    def test_a_killed_one_goes_on_as_if_nothing_had_happened(
        self, method: SearchMethod, tmp_path: Path
    ) -> None:
        frame, events = _once(method)
        for part in (0.35, 0.8):
            known = events[: int(part * len(events))]
            again, _ = compared(method, tmp_path / f"{part}", known)
            pd.testing.assert_frame_equal(
                again.drop(columns="wall_s"), frame.drop(columns="wall_s")
            )


class DescentConformance(MethodConformance):
    """What every method must do that is one trial.

        class TestMyDescent(DescentConformance):
            @pytest.fixture
            def method(self):
                return MyDescent()

    Fixtures:
        method: the method.
        task: what it descends; training a network on digits by default.
        runs: how often the budget covers the least that the method needs.
    """

    @pytest.fixture
    def task(self) -> Any:
        return Digits(horizon=6)

    @pytest.fixture
    def runs(self) -> float:
        return 3.4

    def test_one_that_is_killed_again_and_again_computes_nothing_twice(
        self,
        method: DescentMethod,
        task: Task,
        runs: float,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Killed after every evaluation, or a few; the best run's states included."""
        least = method.min_budget(task, task.sample(0))
        budget = runs * least + 6 * task.horizon
        computed, study = Computed(monkeypatch), StudyKey(task.name, method.name, 0)
        spec = TrialSpec(study=study, number=0, kind="descent", budget=budget)
        undisturbed = list(trial_runner.reports_of(spec, task, method))
        assert undisturbed[-1].kind == "final"
        assert undisturbed[-1].failure == ""
        needed, computed.count = computed.count, 0
        assert needed > 2
        log = "raymeta.search.worker.evaluation_log"
        monkeypatch.setattr(f"{log}.SAVE_EVERY_S", -1.0)
        monkeypatch.setattr(f"{log}.SAVE_SHARE", 0)
        for allowed in itertools.count(1, 1 if needed < 20 else needed // 7):
            computed.allowed = allowed
            try:
                store = TrialStore(tmp_path)
                reports = list(trial_runner.reports_of(spec, task, method, store))
                break
            except Killed:
                assert computed.count == allowed
        assert computed.count == needed
        assert untimed(reports) == untimed(undisturbed)
        seconds = [report.wall_s for report in reports]
        assert seconds == sorted(seconds)


def suggestions(
    method: SearchMethod, seed: int, count: int = TRIALS, told: bool = True
) -> list[dict[str, Any]]:
    """What a method tries where the loss is the distance of `shift` from 1.

    Args:
        method: a search.
        seed: seeds its searcher.
        count: how many trials.
        told: whether it is told the loss of each before it suggests the next.
    """
    points: list[dict[str, Any]] = []
    with quiet_tune(), IsolatedGlobalRNG(seed):
        config = method.tune_config(TASK, seed)
        searcher: Any = config.search_alg
        space = to_tune(TASK.space)
        assert searcher.set_search_properties(config.metric, config.mode, space)
        for trial in map(str, range(count)):
            points.append(searcher.suggest(trial))
            loss = abs(points[-1]["shift"] - 1)
            result = {"outer_loss": loss, "hyperband_info": {"budget": 9}}
            if told:
                searcher.on_trial_complete(trial, result)
    return points


class Compared(NamedTuple):
    """A comparison: its frame, and the journal of its events."""

    frame: pd.DataFrame
    events: list[Any]


@cache
def _once(method: SearchMethod) -> Compared:
    with tempfile.TemporaryDirectory() as folder:
        return compared(method, Path(folder) / "journal")


def compared(method: SearchMethod, path: Path, events: Sequence[Any] = ()) -> Compared:
    """A comparison of one method on a quadratic, in this process.

    Args:
        method: a search.
        path: path of the journal.
        events: what happened already, which is not done again.
    """
    with closing(JsonLines(path)) as journal, quiet_tune():
        for event in events:
            journal.append(event)
        plan = make_plan(Quadratic(), method, RUNS * RUN, seeds=1)
        coordinator = Coordinator(map(study_of, plan.study_specs()), journal)
        coordinator.replay(journal.read())
        while run := coordinator.request_trial():
            run_trial(coordinator, run)
        assert coordinator.finished
        return Compared(to_frame(coordinator.studies.values()), journal.read())
