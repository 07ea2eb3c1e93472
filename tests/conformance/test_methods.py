"""What every registered method of a comparison must do."""

import dataclasses
import itertools
import math
import pickle
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from ray.tune import TuneConfig
from scipy import stats

from raymeta.results.jsonlines import JsonLines
from raymeta.search import to_tune
from raymeta.search.frame import to_frame
from raymeta.search.methods import (
    BLACK_BOX,
    DEFAULT,
    HYBRID,
    HYPERGRADIENT,
    METHODS,
    DescentMethod,
    SearchMethod,
    missing,
)
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
from tests.support.killed import Computed, Killed, untimed
from tests.support.ridge import Ridge

TRIALS = 25  # enough to leave the random start of a model-based search
HORIZONS = [1, 2, 8, 9, 10, 27, 100, 200, 1000]


def parameters(names):
    """The names, with those that lack packages marked so."""
    return [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                bool(missing(METHODS[name])),
                reason=f"{name} needs {', '.join(missing(METHODS[name]))}",
            ),
        )
        for name in names
    ]


#: Black-box search, and hybrids whose trials a searcher of Tune suggests.
SEARCHES = parameters(n for n, m in METHODS.items() if isinstance(m, SearchMethod))


@dataclass(frozen=True)
class EveryDomain:
    """A task of which only the space is looked at."""

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


TASK = EveryDomain()


def suggestions(name, seed, task=TASK, count=TRIALS, told=True):
    """What the method tries when the loss is the distance of `shift` from 1."""
    points = []
    with quiet_tune(), IsolatedGlobalRNG(seed):
        config = METHODS[name].tune_config(task, seed)
        searcher = config.search_alg
        space = to_tune(task.space)
        assert searcher.set_search_properties(config.metric, config.mode, space)
        for trial in map(str, range(count)):
            points.append(searcher.suggest(trial))
            if not told:
                continue
            loss = abs(points[-1]["shift"] - 1)
            result = {"outer_loss": loss, "hyperband_info": {"budget": 9}}
            searcher.on_trial_complete(trial, result)
    return points


@pytest.mark.parametrize("name", METHODS)
class TestEveryMethod:
    def test_it_is_a_value_that_travels(self, name):
        method = METHODS[name]
        assert method.name == name
        assert method.family in (BLACK_BOX, HYPERGRADIENT, HYBRID)
        assert type(method).__dataclass_params__.frozen
        assert pickle.loads(pickle.dumps(method)) == method

    def test_it_says_what_it_does_and_where_it_is_from(self, name):
        others = [m for m in METHODS.values() if m.family != METHODS[name].family]
        assert METHODS[name].summary.endswith(".")
        assert METHODS[name].summary not in [method.summary for method in others]
        if METHODS[name].family in (BLACK_BOX, HYBRID):
            assert "Source: " in type(METHODS[name]).__doc__


def test_the_default_methods_need_no_package():
    assert not any(missing(METHODS[name]) for name in DEFAULT)


@pytest.mark.parametrize("name", SEARCHES)
class TestSearch:
    def test_its_config_minimizes_the_outer_loss(self, name):
        config = METHODS[name].tune_config(TASK, 0)
        assert isinstance(config, TuneConfig)
        assert (config.metric, config.mode) == ("outer_loss", "min")
        if config.scheduler is not None:
            assert config.scheduler.set_search_properties("outer_loss", "min")

    @pytest.mark.parametrize("horizon", HORIZONS)
    def test_its_rungs_increase_to_the_horizon(self, name, horizon):
        rungs = METHODS[name].rungs(EveryDomain(horizon=horizon))
        assert list(rungs) == sorted(set(rungs))
        assert rungs[0] >= 1
        assert rungs[-1] == horizon

    def test_what_is_in_flight_together_depends_on_no_result(self, name):
        ahead = METHODS[name].ahead(TASK, runs=30.0)
        assert ahead == math.inf or type(ahead) is int
        count = int(min(ahead, TRIALS))
        assert count >= 1
        alone = suggestions(name, seed=0, count=count)
        assert suggestions(name, seed=0, count=count, told=False) == alone

    def test_the_initial_point_comes_first(self, name):
        assert suggestions(name, seed=0, count=1)[0] == TASK.space.initial_point()

    def test_suggestions_lie_in_the_space_and_differ(self, name):
        domains = TASK.space.flat_domains()
        points = suggestions(name, seed=0)
        for point in points:
            assert set(point) == set(domains)
            for flat, domain in domains.items():
                if isinstance(domain, Choice):
                    assert point[flat] in domain.options
                else:
                    assert domain.low <= point[flat] <= domain.high
        assert len({tuple(point[n] for n in domains) for point in points}) == TRIALS
        assert {point["kind"] for point in points} == {None, "a", 3}

    def test_the_seed_decides(self, name):
        first, again, other = (suggestions(name, seed, count=15) for seed in (1, 1, 2))
        assert first == again
        assert first[1:] != other[1:]


# What a model suggests is no sample; cmaes and nevergrad start at the centre, narrowly.
SAMPLED = [
    *("random", "sobol", "asha", "hyperband", "median", "pbt", "pb2", "tpe", "gp"),
    *("hyperopt", "bayesopt", "bohb"),
]


@pytest.mark.parametrize("name", parameters(SAMPLED))
def test_the_first_points_are_uniform_in_the_coordinates_of_the_space(name):
    """Kolmogorov-Smirnov, over the ten first points of many seeds."""
    alone = name in ("random", "sobol")
    seeds, each = (1, 400) if alone else (40, 9)
    points = []
    for seed in range(seeds):
        points += suggestions(name, seed, count=each + 1)[1:]
    samples = {
        "lr[0]": [math.log10(p["lr[0]"]) / 5 + 0.8 for p in points],  # 1e-4 to 10
        "momentum": [p["momentum"] / 0.99 for p in points],
        "shift": [(p["shift"] + 2) / 5 for p in points],
    }
    for values in samples.values():
        assert stats.kstest(values, "uniform").pvalue > 1e-4
    counts = [sum(p["kind"] == kind for p in points) for kind in (None, "a", 3)]
    assert stats.chisquare(counts).pvalue > 1e-4


def test_sobol_covers_more_evenly_than_chance():
    cube = {}
    for name in ("sobol", "random"):
        points = suggestions(name, 0, count=129)[1:]
        units = [[(p["shift"] + 2) / 5, p["momentum"] / 0.99] for p in points]
        cube[name] = stats.qmc.discrepancy(np.array(units))
    assert cube["sobol"] < cube["random"] / 5


def compared(name, path, budget, events=()):
    """A comparison of one method on a small quadratic in this process."""
    task = Quadratic()
    with closing(JsonLines(path)) as journal, quiet_tune():
        for event in events:
            journal.append(event)
        plan = make_plan(task, name, budget, seeds=1)
        coordinator = Coordinator(map(study_of, plan.study_specs()), journal)
        coordinator.replay(journal.read())
        while run := coordinator.request_trial():
            cell = coordinator.studies[run.study].spec
            for message in trial_runner.reports_of(run, cell.task, cell.method):
                if coordinator.record(run, [message], last=False):
                    break
            else:
                coordinator.record(run, [], last=True)
        assert coordinator.finished
        return to_frame(coordinator.studies.values()), journal.read()


RUNS = (
    12  # full runs that the budget holds: a band of HyperBand, two populations of PB2
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """frame, events and budget of a method's comparison, computed once."""
    known = {}

    def of(name):
        if name not in known:
            budget = RUNS * (20 + 10 / 3)
            path = tmp_path_factory.mktemp(name) / "journal"
            known[name] = *compared(name, path, budget), budget
        return known[name]

    return of


@pytest.mark.parametrize("name", SEARCHES)
class TestOnTheQuadratic:
    def test_it_starts_at_the_initial_point_and_finds_better(self, results, name):
        frame, _, _ = results(name)
        start = Quadratic().space.initial_point()
        if METHODS[name].family == BLACK_BOX:  # a hybrid has moved when it reports
            assert {n: frame[f"hp/{n}"][0] for n in start} == pytest.approx(start)
        complete = frame[frame.status == "complete"]
        by_trial = complete[complete.trial == 0]
        initial = results("random")[0].outer_loss[0]  # of a full run there
        assert frame.best_outer_loss.min() < initial
        constant = METHODS[name].family == BLACK_BOX and not METHODS[name].pauses
        if len(by_trial) and constant:
            assert by_trial.outer_loss.iloc[0] == pytest.approx(initial, rel=1e-6)

    def test_it_spends_its_budget_to_less_than_a_run(self, results, name):
        frame, _, budget = results(name)
        assert frame.gradient_evals.is_monotonic_increasing
        run = 30.0
        if METHODS[name].family == HYBRID:
            task = Quadratic()
            run = METHODS[name].min_budget(task, task.sample(0))
        assert budget - run < frame.gradient_evals.max() <= budget

    def test_the_final_run_finds_the_recorded_value_again(self, results, name):
        frame, _, _ = results(name)
        final = frame.iloc[-1]
        assert (final.status, final.failure) == ("final", "")
        assert final.outer_loss == frame.best_outer_loss.min()

    def test_a_killed_one_goes_on_as_if_nothing_had_happened(
        self, results, name, tmp_path
    ):
        frame, events, budget = results(name)
        for part in (0.35, 0.8):
            known = events[: int(part * len(events))]
            again, _ = compared(name, tmp_path / f"{part}", budget, known)
            pd.testing.assert_frame_equal(
                again.drop(columns="wall_s"), frame.drop(columns="wall_s")
            )


#: Methods that are one trial, each on a network, or on the task that it is for.
DESCENTS = [name for name, m in METHODS.items() if isinstance(m, DescentMethod)]
TASKS = {name: Digits(horizon=6) for name in DESCENTS} | {"implicit": Ridge()}


@pytest.mark.parametrize("name", DESCENTS)
def test_a_descent_that_is_killed_again_and_again_computes_nothing_twice(
    name, tmp_path, monkeypatch
):
    """Killed after every evaluation, or a few; the states of the best run included."""
    task, method = TASKS[name], METHODS[name]
    least = method.min_budget(task, task.sample(0))
    budget = 3.4 * getattr(method, "size", 1) * least + 6 * task.horizon
    computed, cell = Computed(monkeypatch), StudyKey(task.name, name, 0)
    run = TrialSpec(study=cell, number=0, kind="descent", budget=budget)
    undisturbed = list(trial_runner.reports_of(run, task, method))
    assert undisturbed[-1].kind == "final"
    assert undisturbed[-1].failure == ""
    needed, computed.count = computed.count, 0
    assert needed > 2
    monkeypatch.setattr("raymeta.search.worker.evaluation_log.SAVE_EVERY_S", -1.0)
    monkeypatch.setattr("raymeta.search.worker.evaluation_log.SAVE_SHARE", 0)
    for allowed in itertools.count(1, 1 if needed < 20 else needed // 7):
        computed.allowed = allowed
        try:
            messages = list(
                trial_runner.reports_of(run, task, method, TrialStore(tmp_path))
            )
            break
        except Killed:
            assert computed.count == allowed
    assert computed.count == needed
    assert untimed(messages) == untimed(undisturbed)
    seconds = [message.wall_s for message in messages]
    assert seconds == sorted(seconds)


def test_halving_happens_at_the_rungs_that_trials_report_at():
    method = METHODS["asha"]
    for horizon in HORIZONS:
        task = EveryDomain(horizon=horizon)
        scheduler = method.tune_config(task, 0).scheduler
        (bracket,) = scheduler._brackets
        milestones = sorted(step for step, _ in bracket._rungs if step < horizon)
        assert milestones == list(method.rungs(task))[:-1]
