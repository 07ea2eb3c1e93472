"""Many hyperparameters: options are tried before the descent."""

import logging
import math

import pytest
import torch

from raymeta import optimize
from raymeta.problem import BilevelProblem, no_data
from raymeta.space import Choice, Real, Space

pytestmark = pytest.mark.usefixtures("float64")


class Bowls:
    """E = |x - 1.5|² + d over 24 coordinates; d by options, one without dE/dx."""

    name, horizon, budget = "bowls", 4, 4 * 40.0
    DEPTH = {"high": 5.0, "low": 1.0, "stopped": 0.5}  # noqa: RUF012
    depths = "high", "low"

    @property
    def space(self):
        return Space(
            x=Real(0.0, low=-4.0, high=4.0, shape=(24,)),
            depth=Choice(self.depths),
            sign=Choice((-1, 1)),
        )

    def sample(self, seed):
        return self.sample_for(seed, {"depth": "high", "sign": -1})

    def sample_for(self, seed, choices):
        depth = self.DEPTH[choices["depth"]]

        def step(x, hparams, batch):
            moved = hparams["x"].detach() if choices["depth"] == "stopped" else None
            return x + (hparams["x"] if moved is None else moved) / self.horizon

        return BilevelProblem(
            init=lambda hparams: torch.zeros(24),
            batch=no_data,
            step=step,
            outer_loss=lambda x, h: (x - 1.5).square().sum() + depth - h["sign"],
            outer_cost=1.0,
        )


def test_the_best_options_are_descended_at():
    result = optimize(Bowls(), progress=False)
    assert (result.hparams["depth"], result.hparams["sign"]) == ("low", 1)
    assert result.outer_loss == pytest.approx(0.0, abs=1e-3)
    assert result.start_loss == pytest.approx(24 * 1.5**2 + 6)
    assert result.hparams["x"].tolist() == pytest.approx([1.5] * 24, abs=0.05)
    steps = [report.outer_step for report in result.reports]
    assert steps == list(range(1, len(steps) + 1))
    spent = [report.gradient_evals for report in result.reports]
    assert spent == sorted(spent)
    assert spent[-1] <= Bowls.budget * (1 + 1e-9)


def test_options_that_an_estimator_refuses_are_left_out(caplog):
    task = Bowls()
    task.depths = "high", "stopped"
    with caplog.at_level(logging.WARNING):
        result = optimize(task, progress=False)
    assert "does not depend on hyperparameter 'x'" in caplog.text
    assert result.hparams["depth"] == "high"
    assert result.outer_loss < 7


@pytest.mark.parametrize("runs", [5, 8])
def test_a_small_budget_is_kept(runs):
    budget = runs * (4 + 1 / 3)
    result = optimize(Bowls(), progress=False, budget=budget)
    assert result.reports[-1].gradient_evals <= budget * (1 + 1e-9)
    assert math.isfinite(result.outer_loss)
