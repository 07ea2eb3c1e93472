"""Descents by evolution strategies: true gradients, charges, and what vmap refuses."""

import math
from dataclasses import replace

import pytest
import torch

from raymeta.hypergrad import Forward, Reverse, hypergradient
from raymeta.problem import BilevelProblem, no_data
from raymeta.search.methods import evolution, get
from raymeta.search.methods.evolution import PAIRS, Perturbed
from raymeta.space import Real, Space
from raymeta.tasks import Quadratic

pytestmark = pytest.mark.usefixtures("float64")
SEEDS = 12


def estimate(persistent, seed, **changes):
    """The strategy's hypergradient after a whole run of 20 steps."""
    task = Quadratic()
    problem, hparams = task.sample(0), task.space.initial()
    steps = 5 if persistent else task.horizon
    strategy = Perturbed(steps, task.space, persistent, seed, **changes)
    rollout = strategy.init(problem, hparams)
    while rollout.step < task.horizon:
        found, rollout = strategy.estimate(problem, hparams, rollout)
    return found


@pytest.mark.parametrize("persistent", [False, True], ids=["es", "pes"])
def test_the_mean_estimate_is_the_hypergradient_in_natural_values(
    persistent, monkeypatch
):
    monkeypatch.setattr(evolution, "PAIRS", 200)
    task = Quadratic()
    problem, hparams = task.sample(0), task.space.initial()
    exact = hypergradient(problem, hparams, Reverse(task.horizon)).grads
    assert {"lr", "momentum"} == set(exact)
    found = [estimate(persistent, seed).grads for seed in range(SEEDS)]
    for name, truth in exact.items():
        values = torch.stack([grads[name] for grads in found])
        error = values.std() / SEEDS**0.5
        assert error < 0.12 * truth.abs()
        # σ = .1 smooths E by some per cent.
        assert (values.mean() - truth).abs() < 4 * error + 0.05 * truth.abs()


@pytest.mark.parametrize("persistent", [False, True], ids=["es", "pes"])
def test_runs_one_by_one_are_the_same(persistent):
    together, alone = (estimate(persistent, 0, vectorized=v) for v in (True, False))
    for name, value in together.grads.items():
        torch.testing.assert_close(alone.grads[name], value)
    task = Quadratic()
    plain = hypergradient(task.sample(0), task.space.initial(), Forward(20))
    torch.testing.assert_close(together.outer_loss, plain.outer_loss)


@pytest.mark.parametrize(("name", "estimates"), [("es", 1), ("pes", 20)])
def test_a_run_is_charged_for_all_that_runs_beside_it(name, estimates):
    task = Quadratic(budget=2000.0)
    problem = task.sample(0)
    runs = 2 * PAIRS + 1
    least = get(name).min_budget(task, problem)
    assert least == pytest.approx(
        runs * (task.horizon + estimates * problem.outer_cost / 3)
    )
    reports = list(get(name).reports(task, problem, 0, task.budget))
    assert task.budget - least < reports[-1].gradient_evals <= task.budget
    best = min(r.outer_loss for r in reports if r.complete)
    assert best < 1e-3 * reports[0].outer_loss
    again = list(get(name).reports(task, problem, 0, task.budget))
    assert [r.outer_loss for r in again] == [r.outer_loss for r in reports]


def test_a_step_that_vmap_refuses_runs_one_by_one(caplog):
    task = Quadratic()
    problem = task.sample(0)

    def step(state, hparams, batch):
        assert math.isfinite(float(state.params["w"].sum()))
        return problem.step(state, hparams, batch)

    reports = list(get("es").reports(task, replace(problem, step=step), 0, 500.0))
    assert "runs go one by one" in caplog.text
    smooth = list(get("es").reports(task, problem, 0, 500.0))
    for report, other in zip(reports, smooth, strict=True):
        assert report.outer_loss == pytest.approx(other.outer_loss, rel=1e-6)


@pytest.mark.parametrize("persistent", [False, True], ids=["es", "pes"])
def test_no_run_beside_it_leaves_the_bounds(persistent):
    """Where the centre is a bound, one run of a pair stays there, and E still falls."""
    space, seen = Space(rate=Real(1.0, low=0.0, high=1.0)), []

    def step(state, hparams, batch):
        seen.append(float(hparams["rate"]))
        return state

    problem = BilevelProblem(
        init=lambda hparams: torch.zeros(()),
        batch=no_data,
        step=step,
        outer_loss=lambda state, hparams: -hparams["rate"],
    )
    strategy = Perturbed(1, space, persistent, vectorized=False)
    hparams = space.initial()
    rollout = strategy.init(problem, hparams)
    found, _ = strategy.estimate(problem, hparams, rollout)
    assert min(seen) < 1.0 == max(seen)
    assert found.grads["rate"] < 0
