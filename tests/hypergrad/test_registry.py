"""Every estimator that the command line offers learns, or says why it cannot."""

import math

import pytest

from raymeta.hypergrad.registry import ESTIMATORS, by_name
from raymeta.outer.optimize import optimize
from raymeta.tasks import Quadratic

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - {"implicit", "soba"}))
def test_it_learns_the_quadratic(name):
    task = Quadratic(budget=2000.0)
    result = optimize(task, by_name(name, task.horizon))
    first = next(r.outer_loss for r in result.reports if math.isfinite(r.outer_loss))
    assert result.outer_loss < 0.05 * first


@pytest.mark.parametrize("name", ["implicit", "soba"])
def test_implicit_names_what_acts_on_the_path_only(name):
    task = Quadratic()
    with pytest.raises(ValueError, match="'lr'"):
        optimize(task, by_name(name, task.horizon))


def test_a_diverging_reversible_run_is_worse_than_any_other():
    # At its start the learning rate overflows the fixed-point numbers.
    task = Quadratic(eigenvalues=(1.0, 4.0, 1e3), budget=3000.0)
    result = optimize(task, by_name("reversible", task.horizon))
    assert any(r.outer_loss == math.inf for r in result.reports)
    assert math.isfinite(result.outer_loss)
