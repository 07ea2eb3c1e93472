"""Grid search: which grid a budget affords, and what is refused."""

import math
from dataclasses import dataclass, field

import pytest
from ray.tune.search import Searcher

from raymeta.search.methods import get
from raymeta.search.plan import make_plan
from raymeta.space import Choice, Positive, Real, Space
from raymeta.tasks import LearningRateSchedule, Quadratic


@dataclass(frozen=True)
class Three:
    """Two numbers and a choice."""

    name: str = "three"
    horizon: int = 10
    budget: float = 100.0
    space: Space = field(
        default_factory=lambda: Space(
            lr=Positive(1.0, low=0.01, high=100.0),
            shift=Real(0.0, low=-1.0, high=1.0),
            kind=Choice(["a", "b", "c"]),
        )
    )


def suggested(count, runs, seed=0, task=None):
    """The first points of a grid for so many runs, after the initial one."""
    task = task or Three()
    search = get("grid").sized(runs).tune_config(task, seed).search_alg
    assert search.suggest("0") == task.space.initial_point()
    return [search.suggest(str(trial)) for trial in range(1, count + 1)]


# Of 3 x n x m points, with one run for the start: 4 x 3 for 37 runs, not for 36.
@pytest.mark.parametrize(
    ("runs", "lr", "shift"),
    [(13, 2, 2), (18.9, 2, 2), (19, 3, 2), (36, 3, 3), (37.0, 4, 3), (48, 4, 3)],
)
def test_it_is_the_largest_full_factorial_grid_that_fits(runs, lr, shift):
    points = suggested(3 * lr * shift, runs)
    decades = [-2 + 4 * (i + 0.5) / lr for i in range(lr)]
    shifts = [-1 + 2 * (i + 0.5) / shift for i in range(shift)]
    full = {
        (round(decade, 6), round(at, 6), kind)
        for decade in decades
        for at in shifts
        for kind in "abc"
    }
    start = (0.0, 0.0, "a")  # tried before, where it lies on the grid
    found = {
        (round(math.log10(p["lr"]), 6), round(p["shift"], 6), p["kind"])
        for p in points[: len(full - {start})]
    }
    assert found == full - {start}


def test_what_is_left_goes_to_the_next_grid_and_nothing_is_tried_twice():
    points = suggested(60, runs=13)
    assert len({tuple(p.values()) for p in points}) == 60


def test_a_space_of_choices_alone_ends():
    task = Three(space=Space(kind=Choice(["a", "b", "c"]), flag=Choice([True, False])))
    points = suggested(6, runs=100, task=task)
    assert len({tuple(p.values()) for p in points[:5]}) == 5
    assert points[5] == Searcher.FINISHED


def test_where_two_levels_of_each_exceed_the_budget_it_is_refused():
    plan = make_plan([LearningRateSchedule(), Quadratic()], ["grid", "random"], None, 1)
    assert plan.unfit() == {
        ("schedule", "grid"): "it takes at least 1.28e+32 gradient evaluations, and "
        "the budget is 5,000"
    }
    task = Quadratic(horizon=20)  # four points and the start, at 20 + 1/3 each
    assert make_plan(task, ["grid"], 5 * 61 / 3, 1).unfit() == {}
    assert make_plan(task, ["grid", "random"], 101, 1).unfit().keys() == {
        ("quadratic", "grid")
    }


def test_a_grid_too_large_to_lay_out_is_refused_in_words():
    with pytest.raises(ValueError, match=r"two levels of each .* are 1\.27e\+30: use"):
        get("grid").tune_config(LearningRateSchedule(), 0)
