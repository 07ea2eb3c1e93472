import math

import pytest
import torch

from raymeta.hypergrad import Reverse, hypergradient
from raymeta.outer.report import plain_run
from raymeta.tasks import Surface
from raymeta.tasks.surface import FORMULAS, branin, hartmann6

pytestmark = pytest.mark.usefixtures("float64")
every_function = pytest.mark.parametrize("function", FORMULAS)


@every_function
@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_is_where_it_says(function, seed):
    task = Surface(function=function)
    problem, best = task.sample(seed), task.optimum(seed)
    result = hypergradient(problem, best, Reverse(task.horizon))
    assert abs(float(result.outer_loss)) < 1e-12
    assert float(result.grads["x"].norm()) < 1e-5
    assert bool(((best["x"] >= 0) & (best["x"] <= 1)).all())


@every_function
def test_nothing_is_lower_at_any_fidelity(function):
    formula, generator = FORMULAS[function], torch.Generator().manual_seed(0)
    x = torch.rand(1000, len(formula.optimum), generator=generator) * 1.2 - 0.1
    for z in (0.0, 0.5, 1.0):
        values = torch.stack([formula.value(point, torch.tensor(z)) for point in x])
        assert float(values.min()) >= formula.least


def test_published_values():
    full = torch.tensor(1.0)
    for x1, x2 in ((-math.pi, 12.275), (math.pi, 2.275), (3 * math.pi, 2.475)):
        point = torch.tensor([(x1 + 5) / 15, x2 / 15])
        assert float(branin(point, full)) == pytest.approx(0.397887, abs=1e-6)
    # (7.5 - 31.875 / (4 π²) + 12.5 / π - 6)² + 10 (1 - 1 / (8 π)) cos 2.5 + 10.
    centre = torch.tensor([0.5, 0.5])
    assert float(branin(centre, full)) == pytest.approx(24.129964, abs=1e-5)
    best = torch.tensor([0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573])
    assert float(hartmann6(best, full)) == pytest.approx(-3.32237, abs=1e-5)


def test_fidelity_changes_one_constant():
    x = torch.tensor(FORMULAS["branin"].optimum)
    # On the valley's floor at full fidelity; 0.1 x_1² beside it at none.
    rise = branin(x, torch.tensor(0.0)) - branin(x, torch.tensor(1.0))
    assert float(rise) == pytest.approx((0.1 * math.pi**2) ** 2, rel=1e-9)


def test_training_raises_the_fidelity():
    task = Surface(function="branin", horizon=10)
    hparams = {"x": torch.tensor([0.3, 0.6])}
    value = plain_run(task.sample(2), hparams, 4)[1]
    formula, x = FORMULAS["branin"], hparams["x"] - task.shift(2)
    truth = formula.value(x, torch.tensor(0.4)) - formula.least
    assert value == pytest.approx(float(truth), rel=1e-12)
