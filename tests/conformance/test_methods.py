"""Every registered method; a new one inherits its suite by being registered."""

import math

import numpy as np
import pytest
from scipy import stats

from raymeta.results.schema import BLACK_BOX, HYBRID, TUNING_FREE
from raymeta.search.methods import (
    DEFAULT,
    METHODS,
    DescentMethod,
    SearchMethod,
    missing,
)
from raymeta.tasks import Digits
from raymeta.testing.methods import (
    HORIZONS,
    DescentConformance,
    EveryDomain,
    MethodConformance,
    SearchConformance,
    suggestions,
)
from tests.support.ridge import Ridge


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


class TestSearches(SearchConformance):
    @pytest.fixture(
        params=parameters(n for n, m in METHODS.items() if isinstance(m, SearchMethod))
    )
    def method(self, request):
        return METHODS[request.param]


#: That are one run, and so cannot be killed between two.
SINGLE = parameters(n for n, m in METHODS.items() if m.family == TUNING_FREE)


class TestSingleRuns(MethodConformance):
    @pytest.fixture(params=SINGLE)
    def method(self, request):
        return METHODS[request.param]


class TestDescents(DescentConformance):
    @pytest.fixture(
        params=[
            n
            for n, m in METHODS.items()
            if isinstance(m, DescentMethod) and m.family != TUNING_FREE
        ]
    )
    def method(self, request):
        return METHODS[request.param]

    @pytest.fixture
    def task(self, method):
        # A fixed point, which this estimator is for.
        at_minimum = method.name in ("implicit", "soba")
        return Ridge() if at_minimum else Digits(horizon=6)

    @pytest.fixture
    def runs(self, method):
        return 3.4 * getattr(method, "size", 1)


def test_methods_have_their_names_and_say_where_they_are_from():
    for name, method in METHODS.items():
        assert method.name == name
        others = [m for m in METHODS.values() if m.family != method.family]
        assert method.summary not in [other.summary for other in others]
        if method.family in (BLACK_BOX, HYBRID):
            assert "Source: " in type(method).__doc__


def test_the_default_methods_need_no_package():
    assert not any(missing(METHODS[name]) for name in DEFAULT)


# What a model suggests is no sample; cmaes and nevergrad start at the centre, narrowly.
SAMPLED = [
    *("random", "sobol", "asha", "hyperband", "median", "pbt", "pb2", "tpe", "gp"),
    "tpe_multivariate",
    *("hyperopt", "bayesopt", "bohb"),
]


@pytest.mark.parametrize("name", parameters(SAMPLED))
def test_the_first_points_are_uniform_in_the_coordinates_of_the_space(name):
    """Kolmogorov-Smirnov, over the ten first points of many seeds."""
    alone = name in ("random", "sobol")
    seeds, each = (1, 400) if alone else (40, 9)
    points = []
    for seed in range(seeds):
        points += suggestions(METHODS[name], seed, count=each + 1)[1:]
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
        points = suggestions(METHODS[name], 0, count=129)[1:]
        units = [[(p["shift"] + 2) / 5, p["momentum"] / 0.99] for p in points]
        cube[name] = stats.qmc.discrepancy(np.array(units))
    assert cube["sobol"] < cube["random"] / 5


def test_halving_happens_at_the_rungs_that_trials_report_at():
    method = METHODS["asha"]
    for horizon in HORIZONS:
        task = EveryDomain(horizon=horizon)
        scheduler = method.tune_config(task, 0).scheduler
        (bracket,) = scheduler._brackets
        milestones = sorted(step for step, _ in bracket._rungs if step < horizon)
        assert milestones == list(method.rungs(task))[:-1]
