"""A line search by values alone: its trials by hand."""

import math
from collections.abc import Callable
from functools import partial

import pytest

from raymeta.outer import LineSearch
from raymeta.outer.steps.line_search import LineSearchState


def searched(
    search: LineSearch, phi: Callable[[float], float]
) -> tuple[list[float], LineSearchState]:
    """The trials of a search, and its last state."""
    trials, state = [], search.init()
    while state.length is not None:
        trials.append(state.length)
        state = search.update(phi(state.length), state)
    return trials, state


def test_it_doubles_while_values_fall():
    trials, state = searched(LineSearch(0.0, -1.0), lambda t: (t - 5) ** 2 - 25)
    assert trials == [1.0, 2.0, 4.0, 8.0]
    assert (state.best, state.value) == (4.0, -24.0)


@pytest.mark.parametrize("minimum", [0.2, 0.35, 0.49])
def test_it_finds_the_minimum_of_a_parabola_at_once(minimum):
    trials, state = searched(
        LineSearch(3.0, -2 * minimum), lambda t: (t - minimum) ** 2 + 3 - minimum**2
    )
    assert trials == [1.0, pytest.approx(minimum, rel=1e-12)]
    assert state.best == pytest.approx(minimum, rel=1e-12)


def test_it_shortens_within_bounds():
    """Steep walls: at least to 0.15 t; nearly better: at most to 0.6 t; ∞: t / 4."""
    search = LineSearch(0.0, -1.0)
    trials = {1e9: 0.15, 1e-9: 0.5, math.inf: 0.25, math.nan: 0.25}
    for value, second in trials.items():
        length = search.update(value, search.init()).length
        assert length == pytest.approx(second, rel=1e-6)
    assert search.update(-0.0, search.init()).length == 0.5  # equal is not better
    level = LineSearch(0.0, 0.0)
    assert level.update(0.0, level.init()).length == 0.25


def test_it_gives_up_below_the_shortest():
    search = LineSearch(0.0, -1.0, shortest=0.05)
    trials, state = searched(search, lambda t: math.inf)
    assert trials == [1.0, 0.25, 0.0625]
    assert state.best == 0.0


def test_it_tries_the_same_for_multiples_of_e_plus_a_constant():
    """Exactly for powers of two and values that are sums of few of them."""

    def phi(t: float) -> float:
        return t**2 - t / 8

    plain, _ = searched(LineSearch(0.0, -1 / 8), phi)
    for a, b in ((2.0**40, 0.0), (2.0**-30, 0.0), (1.0, 0.5), (4.0, -2.0)):
        along = partial(lambda a, b, t: a * phi(t) + b, a, b)
        trials, _ = searched(LineSearch(b, -a / 8), along)
        assert trials == pytest.approx(plain, rel=1e-12)
