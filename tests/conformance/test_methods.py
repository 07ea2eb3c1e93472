"""What every registered method of a comparison must do."""

import dataclasses
import pickle
from dataclasses import dataclass

import pytest
from ray.tune import TuneConfig

from raymeta.search import to_tune
from raymeta.search.domains import initial_point
from raymeta.search.methods import BLACK_BOX, HYPERGRADIENT, METHODS
from raymeta.space import Choice, Positive, Real, Space, Unit

BLACK_BOX_METHODS = [name for name, m in METHODS.items() if m.family == BLACK_BOX]
TRIALS = 25  # enough to leave the random start of a model-based search


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


def suggestions(name, seed):
    """What the method tries when the loss is the distance of `shift` from 1."""
    config = METHODS[name].tune_config(TASK, seed)
    searcher = config.search_alg
    space = to_tune(TASK.space)
    assert searcher.set_search_properties(config.metric, config.mode, space)
    points = []
    for trial in map(str, range(TRIALS)):
        points.append(searcher.suggest(trial))
        loss = abs(points[-1]["shift"] - 1)
        searcher.on_trial_complete(trial, {"outer_loss": loss})
    return points


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_value_that_travels(name):
    method = METHODS[name]
    assert method.name == name
    assert method.family in (BLACK_BOX, HYPERGRADIENT)
    assert type(method).__dataclass_params__.frozen
    assert pickle.loads(pickle.dumps(method)) == method


@pytest.mark.parametrize("name", BLACK_BOX_METHODS)
class TestBlackBox:
    def test_its_config_minimizes_the_outer_loss(self, name):
        config = METHODS[name].tune_config(TASK, 0)
        assert isinstance(config, TuneConfig)
        assert (config.metric, config.mode) == ("outer_loss", "min")
        if config.scheduler is not None:
            assert config.scheduler.set_search_properties("outer_loss", "min")

    @pytest.mark.parametrize("horizon", [1, 2, 8, 9, 10, 27, 100, 200, 1000])
    def test_its_rungs_increase_to_the_horizon(self, name, horizon):
        rungs = METHODS[name].rungs(EveryDomain(horizon=horizon))
        assert list(rungs) == sorted(set(rungs))
        assert rungs[0] >= 1
        assert rungs[-1] == horizon

    def test_the_initial_point_comes_first(self, name):
        assert suggestions(name, seed=0)[0] == initial_point(TASK.space)

    def test_suggestions_lie_in_the_space_and_differ(self, name):
        domains = TASK.space.flat_domains()
        points = suggestions(name, seed=0)
        for point in points:
            assert list(point) == list(domains)
            for flat, domain in domains.items():
                if isinstance(domain, Choice):
                    assert point[flat] in domain.options
                else:
                    assert domain.low <= point[flat] <= domain.high
        assert len({tuple(point.values()) for point in points}) == TRIALS

    def test_the_seed_decides(self, name):
        first, again, other = (suggestions(name, seed) for seed in (1, 1, 2))
        assert first == again
        assert all(a != b for a, b in zip(first[1:], other[1:], strict=True))


def test_halving_happens_at_the_rungs_that_trials_report_at():
    method = METHODS["asha"]
    for horizon in (1, 2, 8, 9, 10, 27, 100, 200, 1000):
        task = EveryDomain(horizon=horizon)
        scheduler = method.tune_config(task, 0).scheduler
        (bracket,) = scheduler._brackets
        milestones = sorted(step for step, _ in bracket._rungs if step < horizon)
        assert milestones == list(method.rungs(task))[:-1]
