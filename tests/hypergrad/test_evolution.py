"""Evolution strategies: unbiased for the smoothed objective, needing no derivative.

Estimates are compared with exact gradients of the Gaussian-smoothed objective: the mean
of many is within four standard errors, and those are small.
"""

import math
from collections.abc import Callable, Iterable

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss

from raymeta._tree import tree_leaves
from raymeta.hypergrad import (
    ES,
    PES,
    Estimator,
    Hypergradient,
    Reverse,
    ShortTerm,
    Truncated,
    hypergradient,
)
from raymeta.outer.report import plain_run
from raymeta.problem import BilevelProblem
from raymeta.tasks import Quadratic
from raymeta.testing.problems import sgd_everything
from raymeta.testing.truth import largest_relative_error
from raymeta.types import Batch, Hparams, Tensors
from tests.support.heavy import charged_and_counted, layers

pytestmark = pytest.mark.usefixtures("float64")


def windows(
    problem: BilevelProblem, hparams: Hparams, estimator: Estimator, count: int
) -> Hypergradient:
    """The estimate after so many windows at the same λ."""
    rollout = estimator.init(problem, hparams)
    for _ in range(count):
        result, rollout = estimator.estimate(problem, hparams, rollout)
    return result


def assert_unbiased(estimates: Iterable[Tensors], truth: Tensors, error: float) -> None:
    """The mean is within 4 standard errors, which are below `error` of the truth."""
    rows = list(estimates)
    for name, exact in truth.items():
        values = torch.stack([row[name] for row in rows])
        standard_error = values.std(dim=0) / len(values) ** 0.5
        assert bool((standard_error < error * exact.abs()).all()), (name, exact)
        assert bool(((values.mean(dim=0) - exact).abs() < 4 * standard_error).all())


def smoothed(function: Callable[..., float], at: list[float], sigma: list[float]):
    """The gradient of E_ε f(x + ε), exact where f is a polynomial of degree < 40."""
    nodes, weights = hermegauss(20)
    weights = weights / weights.sum()
    if len(at) == 1:
        grid = [((z,), w) for z, w in zip(nodes, weights, strict=True)]
    else:
        grid = [
            ((z, z2), w * w2)
            for z, w in zip(nodes, weights, strict=True)
            for z2, w2 in zip(nodes, weights, strict=True)
        ]
    gradient = [0.0] * len(at)
    for zs, weight in grid:
        point = [x + s * z for x, s, z in zip(at, sigma, zs, strict=True)]
        value = weight * function(*point)
        gradient = [
            g + value * z / s for g, z, s in zip(gradient, zs, sigma, strict=True)
        ]
    return gradient


def test_es_is_unbiased_for_the_smoothed_quadratic():
    task, steps = Quadratic(), 4
    start = task.start(seed=3)
    sigma = {"lr": 0.02, "momentum": 0.1}
    lr, momentum = smoothed(
        lambda lr, momentum: task.closed_form(lr, momentum, steps, start)[0],
        [0.07, 0.3],
        [0.02, 0.1],
    )
    # The smoothing is not negligible: the plain gradient is another one.
    plain = task.closed_form(0.07, 0.3, steps, start)[1]
    assert abs(plain["lr"] / lr - 1) > 0.05
    hparams = {"lr": torch.tensor(0.07), "momentum": torch.tensor(0.3)}
    estimates = (
        hypergradient(task.sample(3), hparams, ES(steps, sigma, 4000, seed)).grads
        for seed in range(40)
    )
    truth = {"lr": torch.tensor(lr), "momentum": torch.tensor(momentum)}
    assert_unbiased(estimates, truth, error=0.04)


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (1, 4), (2, 3)])
def test_pes_is_unbiased_through_all_windows(steps, count):
    """For E = Σ h w² / 2 after k windows of K steps, each with its own noise:

    E_ε E = Σ h w_0² m^k / 2 with m = E_ε (1 - (α + ε) h)^2K.
    """
    task, alpha, sigma = Quadratic(), 0.06, 0.03
    start = task.start(seed=1)
    slope = 0.0
    for h, w in zip(task.eigenvalues, start.tolist(), strict=True):

        def shrink(a: float, h: float = h) -> float:
            return (1 - a * h) ** (2 * steps)

        nodes, weights = hermegauss(20)
        m = sum(
            weight * shrink(alpha + sigma * z)
            for z, weight in zip(nodes, weights / weights.sum(), strict=True)
        )
        (dm,) = smoothed(shrink, [alpha], [sigma])
        slope += 0.5 * h * w**2 * count * m ** (count - 1) * dm
    hparams = {"lr": torch.tensor(alpha), "momentum": 0.0}
    estimates = (
        windows(
            task.sample(1), hparams, PES(steps, sigma, pairs=4000, seed=seed), count
        ).grads
        for seed in range(30)
    )
    assert_unbiased(estimates, {"lr": torch.tensor(slope)}, error=0.03)


def test_pes_sees_what_acts_on_the_start_through_all_windows():
    problem = BilevelProblem(
        init=lambda h: h["start"] * 1.0,
        batch=lambda t: Batch(torch.tensor(t), ()),
        step=lambda s, h, b: 0.9 * s,
        outer_loss=lambda s, h: 0.5 * s.square(),
    )
    hparams = {"start": torch.tensor(2.0)}
    estimates = (
        windows(problem, hparams, PES(2, 0.1, pairs=4000, seed=seed), 3).grads
        for seed in range(10)
    )
    assert_unbiased(estimates, {"start": torch.tensor(2 * 0.9**12)}, error=0.03)


def influence_balancing() -> BilevelProblem:
    """θ acts positively on 10 of 23 states: at first, and negatively in the end.

    Tallec & Ollivier 2017 (UORO); Vicol et al. 2021.
    """
    n, p = 23, 10
    matrix = 0.5 * torch.eye(n) + 0.5 * torch.diag(torch.ones(n - 1), 1)
    signs = torch.cat([torch.ones(p), -torch.ones(n - p)])
    return BilevelProblem(
        init=lambda h: torch.ones(n),
        batch=lambda t: Batch(torch.tensor(t), ()),
        step=lambda s, h, b: matrix @ s + h["theta"] * signs,
        outer_loss=lambda s, h: 0.5 * (s[0] - 1).square(),
    )


def test_influence_balancing_truncation_has_the_wrong_sign_and_pes_has_no_bias():
    problem, hparams = influence_balancing(), {"theta": torch.tensor(0.5)}
    steps, window = 100, 10
    truth = hypergradient(problem, hparams, Reverse(steps)).grads
    # In the limit s_1 = -6 θ, so E = (6 θ + 1)² / 2.
    assert float(truth["theta"]) == pytest.approx(6 * (6 * 0.5 + 1), rel=1e-3)
    truncated = hypergradient(problem, hparams, Truncated(steps, window))
    assert float(truncated.grads["theta"]) < -1.0
    # s is linear in θ and E quadratic, so smoothing leaves the gradient as it is.
    estimates = (
        windows(problem, hparams, PES(window, 0.1, 4000, seed), steps // window).grads
        for seed in range(20)
    )
    assert_unbiased(estimates, truth, error=0.05)


def test_influence_balancing_is_solved_by_pes_and_not_by_truncation():
    """The protocol of Vicol et al. 2021: windows of one step, SGD(1e-4) from θ = .5."""
    problem = influence_balancing()

    def learn(estimator: Estimator, iterations: int) -> float:
        hparams = {"theta": torch.tensor(0.5)}
        rollout = estimator.init(problem, hparams)
        for _ in range(iterations):
            result, rollout = estimator.estimate(problem, hparams, rollout)
            hparams = {"theta": hparams["theta"] - 1e-4 * result.grads["theta"]}
        return plain_run(problem, hparams, 500)[1]

    before = plain_run(problem, {"theta": torch.tensor(0.5)}, 500)[1]
    assert learn(ShortTerm(1), 1000) > 1.1 * before
    assert learn(PES(1, 0.1, pairs=500), 1000) < 0.05 * before


def coin() -> BilevelProblem:
    """x counts successes of draws with probability λ; E is their frequency."""
    draws = torch.rand(50, 400, generator=torch.Generator().manual_seed(0))
    return BilevelProblem(
        init=lambda h: torch.zeros(400, dtype=torch.int64),
        batch=lambda t: Batch(torch.tensor(t), draws[t]),
        step=lambda s, h, b: s + (b.data < h["p"]),
        outer_loss=lambda s, h: s.double().mean() / 50,
    )


def test_sampling_has_no_derivative_and_needs_none():
    problem, hparams = coin(), {"p": torch.tensor(0.4)}
    with pytest.raises(ValueError, match="does not depend"):
        hypergradient(problem, hparams, Reverse(50))
    es = hypergradient(problem, hparams, ES(50, 0.1, pairs=500))
    assert float(es.grads["p"]) == pytest.approx(1.0, abs=0.2)
    assert float(es.outer_loss) == pytest.approx(0.4, abs=0.02)
    # d/dp of the frequency after k windows of n: each window's own noise counts 1 / k.
    pes = [windows(problem, hparams, PES(10, 0.1, 500, s), 5) for s in range(10)]
    assert_unbiased([r.grads for r in pes], {"p": torch.tensor(1.0)}, error=0.1)


def test_argmax_has_no_derivative_and_needs_none():
    """P(λ_1 + ε_1 > λ_0 + ε_0) = Φ((λ_1 - λ_0) / √2 σ)."""
    problem = BilevelProblem(
        init=lambda h: torch.tensor(0.0),
        batch=lambda t: Batch(torch.tensor(t), ()),
        step=lambda s, h, b: s + h["scores"].argmax(),
        outer_loss=lambda s, h: s / 3,
    )
    hparams = {"scores": torch.tensor([0.3, 0.4])}
    sigma = 0.2
    width = math.sqrt(2) * sigma
    density = math.exp(-0.5 * (0.1 / width) ** 2) / math.sqrt(2 * math.pi) / width
    estimates = (
        hypergradient(problem, hparams, ES(3, sigma, pairs=4000, seed=seed)).grads
        for seed in range(20)
    )
    truth = {"scores": torch.tensor([-density, density])}
    assert_unbiased(estimates, truth, error=0.02)


def by_item() -> tuple[BilevelProblem, Hparams]:
    """A step that decides on the host."""

    def step(s: torch.Tensor, h: Hparams, b: Batch) -> torch.Tensor:
        return s - h["lr"] * s if s.sum().item() > 0 else s + 1.0

    problem = BilevelProblem(
        init=lambda h: torch.tensor([1.0, 2.0]),
        batch=lambda t: Batch(torch.tensor(t), ()),
        step=step,
        outer_loss=lambda s, h: s.square().sum(),
    )
    return problem, {"lr": torch.tensor(0.1)}


@pytest.mark.parametrize("kind", [ES, PES])
def test_a_step_that_cannot_be_vectorized_is_told_the_remedy(kind):
    problem, hparams = by_item()
    with pytest.raises(ValueError, match=r"cannot be vectorized.*vectorized=False"):
        hypergradient(problem, hparams, kind(2, 0.01, 3))
    result = hypergradient(problem, hparams, kind(2, 0.01, 300, vectorized=False))
    assert float(result.grads["lr"]) == pytest.approx(-4 * 0.9**3 * 5, rel=0.2)


@pytest.mark.parametrize("kind", [ES, PES])
def test_vectorized_equals_one_after_the_other(kind):
    problem, hparams = sgd_everything()
    together, alone = (
        windows(problem, hparams, kind(3, 0.01, 3, vectorized=vectorized), 2)
        for vectorized in (True, False)
    )
    assert largest_relative_error(together.grads, alone.grads) < 1e-9
    assert torch.equal(together.outer_loss, alone.outer_loss)


@pytest.mark.parametrize("kind", [ES, PES])
def test_reports_the_run_at_the_unperturbed_hyperparameters(kind):
    problem, hparams = sgd_everything()
    estimator = kind(4, 0.01, 2)
    rollout = estimator.init(problem, hparams)
    result, rollout = estimator.estimate(problem, hparams, rollout)
    state, value = plain_run(problem, hparams, 4)
    assert float(result.outer_loss) == value
    assert rollout.step == 4
    for name, w in state.params.items():
        assert torch.equal(rollout.state.params[name], w)
    leaves = [x for x in tree_leaves((result, rollout)) if isinstance(x, torch.Tensor)]
    assert not any(leaf.requires_grad for leaf in leaves)


@pytest.mark.parametrize("kind", [ES, PES])
def test_noise_follows_from_seed_step_and_hyperparameters(kind):
    problem, hparams = sgd_everything()

    def estimate(seed: int, scale: float = 1.0) -> torch.Tensor:
        moved = {name: scale * value for name, value in hparams.items()}
        return hypergradient(problem, moved, kind(2, 0.01, 2, seed)).grads["lr"]

    assert torch.equal(estimate(0), estimate(0))
    assert not torch.isclose(estimate(0), estimate(1))
    # A hyper-step by a hair draws afresh: the noise of one λ does not repeat for ever.
    assert not torch.isclose(estimate(0), estimate(0, 1 + 1e-9))


def test_pes_draws_new_noise_in_each_window():
    problem, hparams = influence_balancing(), {"theta": torch.tensor(0.5)}
    estimator = PES(1, 0.1, pairs=400)
    rollout = estimator.init(problem, hparams)
    _, first = estimator.estimate(problem, hparams, rollout)
    _, second = estimator.estimate(problem, hparams, first)
    one = first.carry.sums["theta"]
    other = second.carry.sums["theta"] - one
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.2
    assert float(second.carry.sums["theta"].std()) == pytest.approx(0.141, rel=0.15)


@pytest.mark.parametrize("kind", [ES, PES])
def test_one_sigma_per_hyperparameter(kind):
    problem, hparams = Quadratic().sample(0), Quadratic().space.initial()
    with pytest.raises(ValueError, match=r"none for \['momentum'\].*it has \['lr'\]"):
        hypergradient(problem, hparams, kind(2, {"lr": 0.1}, 2))
    sigma = {"lr": 1e-4, "momentum": 0.2}
    rollout = kind(2, sigma, 500).init(problem, hparams)
    PES(2, sigma, 500).estimate(problem, hparams, rollout)
    carry = PES(2, sigma, 500).estimate(problem, hparams, rollout)[1].carry
    for name, width in sigma.items():
        assert float(carry.sums[name].std()) == pytest.approx(width, rel=0.15)


@pytest.mark.parametrize("kind", [ES, PES])
@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"steps": 0, "sigma": 0.1, "pairs": 1}, "steps >= 1, but got steps=0"),
        ({"steps": 1, "sigma": 0.0, "pairs": 1}, "sigma > 0, but got sigma=0.0"),
        ({"steps": 1, "sigma": {"a": -1.0}, "pairs": 1}, "sigma > 0, but got"),
        ({"steps": 1, "sigma": 0.1, "pairs": 0}, "pairs >= 1, but got pairs=0"),
    ],
)
def test_impossible_knobs_are_refused(kind, knobs, message):
    with pytest.raises(ValueError, match=message):
        kind(**knobs)


@pytest.mark.parametrize("kind", [ES, PES])
@pytest.mark.parametrize("vectorized", [True, False])
def test_charge_equals_the_count_of_multiplications(kind, vectorized):
    problem, hparams = layers()
    estimator = kind(10, 0.01, 3, vectorized=vectorized)
    charged, counted = charged_and_counted(estimator, problem, hparams)
    assert charged == estimator.cost(problem, hparams)
    assert 0.98 * charged < counted < 1.02 * charged
