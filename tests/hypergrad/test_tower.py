"""Towers: what each level learns from, to any height and by any estimator."""

import gc
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from raymeta import Choice, Positive, Real, Space, Unit, optim
from raymeta._tree import tree_leaves
from raymeta.hypergrad import Forward, Reverse, ShortTerm, hypergradient, tower
from raymeta.hypergrad.base import advance, unroll
from raymeta.problem import BilevelProblem
from raymeta.testing.problems import mlp, sgd_everything
from raymeta.testing.truth import (
    central_differences,
    largest_relative_error,
    run_differences,
)
from raymeta.types import Hparams, Tensors
from tests.support.heavy import charged_and_counted, layers
from tests.support.memory import peak_bytes
from tests.support.noisy import noisy_network

pytestmark = pytest.mark.usefixtures("float64")

SPACE = Space(
    lr=Positive(0.3),
    momentum=Unit(0.7),
    dampening=Unit(0.2),
    weight_decay=Positive(0.02),
    example_weight=Real(0.0, shape=(16,)),
    l2=Positive(0.01),
)


def two_high(space: Space | None = None, loss: str = "outer"):
    """λ in the optimizer and the training loss, learnt by Adam."""
    problem, hparams = sgd_everything()
    del hparams["init_scale"]
    problem = tower(
        problem,
        hparams,
        lambda k: optim.adam(k["lr"], betas=(k["beta1"], 0.99), eps=1e-3),
        space=space,
        loss=loss,
    )
    return problem, {"lr": torch.tensor(0.02), "beta1": torch.tensor(0.6)}


def three_high(space: Space | None = None, loss: str = "outer"):
    """And κ of that by SGD with momentum."""
    problem, kappa = two_high(space, loss)
    problem = tower(
        problem, kappa, lambda k: optim.sgd(k["lr"], momentum=k["momentum"])
    )
    return problem, {"lr": torch.tensor(0.05), "momentum": torch.tensor(0.3)}


HEIGHTS = pytest.mark.parametrize("make", [two_high, three_high])
KINDS = pytest.mark.parametrize(
    ("space", "loss"),
    [(None, "outer"), (SPACE, "outer"), (SPACE, "next_batch")],
    ids=["natural", "coordinates", "next batch"],
)


@HEIGHTS
@KINDS
def test_short_term_is_the_derivative_with_the_state_held_fixed(make, space, loss):
    problem, kappa = make(space, loss)
    estimator = ShortTerm()
    rollout = estimator.init(problem, kappa)
    for t in range(4):
        state = rollout.state

        def ahead(moved: Hparams, state=state, t=t) -> float:
            after = unroll(problem, moved, state, t, 1)
            return float(problem.outer_loss(after, moved))

        result, rollout = estimator.estimate(problem, kappa, rollout)
        truth = central_differences(ahead, kappa, 1e-3)
        assert largest_relative_error(result.grads, truth) < 1e-7
        kappa = {name: value * 1.1 for name, value in kappa.items()}


@pytest.mark.parametrize(
    ("make", "space", "loss", "estimators"),
    [
        (two_high, None, "outer", [Reverse(8), Forward(8)]),
        (two_high, SPACE, "next_batch", [Reverse(8), Forward(8)]),
        (three_high, SPACE, "outer", [Reverse(8)]),
    ],
    ids=["natural", "next batch", "three high"],
)
def test_whole_runs_are_differentiated_through_every_hypergradient(
    make, space, loss, estimators
):
    problem, kappa = make(space, loss)
    grads = [hypergradient(problem, kappa, e).grads for e in estimators]
    truth = run_differences(problem, kappa, 8, 1e-3)
    assert largest_relative_error(grads[0], truth) < 1e-7
    assert largest_relative_error(grads[-1], grads[0]) < 1e-12


def sgd_tower(heights: int, rates: list[float]) -> tuple[BilevelProblem, Hparams]:
    """SGD whose lr SGD learns, whose lr SGD learns, …, by the next batch's loss."""
    problem = mlp(lambda h: optim.sgd(h["lr"]))
    for level in range(heights):
        problem = tower(
            problem,
            {"lr": torch.tensor(rates[level])},
            lambda k: optim.sgd(k["lr"]),
            loss="next_batch" if level == 0 else "outer",
        )
    return problem, {"lr": torch.tensor(rates[heights])}


def test_is_the_papers_tower_of_sgd():
    # Chandra et al.: w <- w - α g, α <- α - κ h, κ <- κ - ρ H, from the top downwards,
    # with h_{t+1} = ∂f(w_{t+1})/∂α = -g_{t+1} g_t and H_{t+1} = h_{t+1} ∂α/∂κ
    # = -h_{t+1} h_t.
    alpha, kappa, rho = 0.1, 0.2, 0.3
    problem, top = sgd_tower(2, [alpha, kappa, rho])
    below = mlp(lambda h: optim.sgd(0.1))
    s, h, H = problem.init(top), 0.0, 0.0
    params = below.init({}).params
    g = gradient(below, params, 0)
    for t in range(15):
        kappa -= rho * H
        alpha -= kappa * h
        params = {k: w - alpha * d for (k, w), d in zip(params.items(), g, strict=True)}
        before, g = g, gradient(below, params, t + 1)
        h_before, h = (
            h,
            -sum(float((a * b).sum()) for a, b in zip(g, before, strict=True)),
        )
        H = -h * h_before

        s = problem.step(s, top, problem.batch(t))
        learnt = s.hparams["lr"], s.state.hparams["lr"]
        assert tuple(map(float, learnt)) == pytest.approx((kappa, alpha), rel=1e-12)
        slopes = s.grads["lr"], s.state.grads["lr"]
        assert tuple(map(float, slopes)) == pytest.approx((H, h), rel=1e-12)
    assert abs(alpha / 0.1 - 1) > 0.2
    assert abs(kappa / 0.2 - 1) > 0.01


def gradient(problem: BilevelProblem, params: Tensors, t: int) -> list[torch.Tensor]:
    """∇f(w, b_t), one tensor per parameter."""
    live = {name: w.detach().requires_grad_() for name, w in params.items()}
    state = problem.init({})._replace(params=live)
    loss = problem.inner_loss(state, {}, problem.batch(t))
    return list(torch.autograd.grad(loss, list(live.values())))


@KINDS
def test_a_level_learns_from_the_short_term_hypergradient_below(space, loss):
    problem, hparams = sgd_everything()
    del hparams["init_scale"]
    top, kappa = two_high(space, loss)
    s = top.init(kappa)
    estimator = ShortTerm(loss=loss)
    rollout = estimator.init(problem, hparams)
    for t in range(5):
        s = top.step(s, kappa, top.batch(t))
        result, rollout = estimator.estimate(problem, s.hparams, rollout)
        x = {
            name: value.detach().requires_grad_()
            for name, value in s.coordinates.items()
        }
        natural = x if space is None else space.natural(x)
        grads = torch.autograd.grad(
            [natural[name] for name in x],
            list(x.values()),
            [result.grads[name] for name in x],
        )
        expected = dict(zip(x, grads, strict=True))
        assert largest_relative_error(s.grads, expected) < 1e-12
    assert not any(leaf.requires_grad for leaf in tree_leaves(s))


def test_a_tower_that_learns_nothing_trains_as_plain_training_does():
    problem, hparams = noisy_network()
    still = tower(problem, hparams, lambda k: optim.sgd(k["lr"]))
    kappa = {"lr": torch.tensor(0.0)}
    s = advance(still, kappa, still.init(kappa), 0, 7)
    plain = advance(problem, hparams, problem.init(hparams), 0, 7)
    for got, expected in zip(tree_leaves(s.state), tree_leaves(plain), strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(still.outer_loss(s, kappa), problem.outer_loss(plain, hparams))


def test_reverse_goes_through_buffers_and_dropout():
    problem, hparams = noisy_network()
    problem = tower(
        problem, hparams, lambda k: optim.sgd({"lr": k["lr"], "beta1": 0.01})
    )
    kappa = {"lr": torch.tensor(0.003)}
    result = hypergradient(problem, kappa, Reverse(6))
    truth = run_differences(problem, kappa, 6, 1e-3)
    assert largest_relative_error(result.grads, truth) < 1e-7


def test_coordinates_stay_within_the_bounds_of_the_space():
    problem, hparams = (
        mlp(lambda h: optim.sgd(h["lr"], momentum=h["momentum"])),
        {
            "lr": torch.tensor(0.1),
            "momentum": torch.tensor(0.5),
        },
    )
    space = Space(
        lr=Positive(0.1, low=0.05, high=0.2), momentum=Unit(0.5, low=0.3, high=0.6)
    )
    problem = tower(problem, hparams, lambda k: optim.sgd(k["lr"]), space=space)
    kappa, ends = {"lr": torch.tensor(100.0)}, set()
    s = problem.init(kappa)
    assert torch.equal(s.hparams["lr"], hparams["lr"])
    for t in range(12):
        s = problem.step(s, kappa, problem.batch(t))
        lr, momentum = (float(s.hparams[name]) for name in ("lr", "momentum"))
        assert 0.05 * (1 - 1e-12) <= lr <= 0.2 * (1 + 1e-12)
        assert 0.3 * (1 - 1e-12) <= momentum <= 0.6 * (1 + 1e-12)
        ends.add(round(lr, 9))
    assert ends & {0.05, 0.2}


def test_what_has_no_derivative_stays_as_it_is():
    space = Space(lr=Positive(0.1), rule=Choice(["sgd", "adam"], initial="adam"))
    problem = mlp(lambda h: getattr(optim, h["rule"])(h["lr"]))
    hparams = {"lr": torch.tensor(0.1), "rule": "adam"}
    problem = tower(problem, hparams, lambda k: optim.sgd(k["lr"]), space=space)
    s = problem.init({"lr": torch.tensor(0.5)})
    assert list(s.hparams) == list(s.coordinates) == ["lr"]
    adam = mlp(lambda h: optim.adam(h["lr"])).init({"lr": torch.tensor(0.1)})
    assert type(s.state.memory.slots["0.weight"]) is type(adam.memory.slots["0.weight"])


def test_single_precision_stays_single():
    torch.set_default_dtype(torch.float32)
    problem, kappa = three_high(SPACE)
    before = problem.init(kappa)
    after = advance(problem, kappa, before, 0, 2)
    for leaf, start in zip(tree_leaves(after), tree_leaves(before), strict=True):
        assert leaf.dtype == start.dtype != torch.float64


def test_metrics_are_those_of_the_training_below_at_what_was_learnt():
    problem, hparams = mlp(lambda h: optim.sgd(h["lr"])), {"lr": torch.tensor(0.1)}
    problem = replace(problem, metrics=lambda s, h: {"lr": h["lr"], **s.params})
    for loss in ("outer", "next_batch"):
        top = tower(problem, hparams, lambda k: optim.sgd(k["lr"]), loss=loss)
        kappa = {"lr": torch.tensor(0.5)}
        s = advance(top, kappa, top.init(kappa), 0, 3)
        assert top.metrics(s, kappa)["lr"] == s.hparams["lr"] != 0.1
    assert two_high()[0].metrics is None


@pytest.mark.parametrize("height", [2, 3])
@pytest.mark.parametrize(("where", "least"), [("optimizer", 1.0), ("inputs", 0.95)])
def test_short_term_charges_what_it_costs_in_steps_of_the_tower(height, where, least):
    problem, hparams = layers(where)
    for _ in range(height - 1):
        problem = tower(problem, hparams, lambda k: optim.sgd(k["lr"]))
        hparams = {"lr": torch.tensor(0.1)}
    charged, counted = charged_and_counted(ShortTerm(), problem, hparams)
    assert charged == ShortTerm().cost(problem, hparams)
    assert least * charged <= counted * (1 + 1e-12) <= charged * (1 + 2e-12)


def train(problem: BilevelProblem, kappa: Hparams, steps: int) -> None:
    advance(problem, kappa, problem.init(kappa), 0, steps)


def learn(problem: BilevelProblem, kappa: Hparams, steps: int) -> None:
    rollout = ShortTerm().init(problem, kappa)
    for _ in range(steps):
        _, rollout = ShortTerm().estimate(problem, kappa, rollout)


@pytest.mark.parametrize("run", [train, learn])
@HEIGHTS
def test_memory_does_not_grow_without_the_garbage_collector(make, run: Callable):
    problem, kappa = make(SPACE, "next_batch")
    gc.disable()
    try:
        peaks = [peak_bytes(lambda n=n: run(problem, kappa, n)) for n in (5, 50)]
    finally:
        gc.enable()
    assert peaks[0] == peaks[1]


def test_a_hyperparameter_that_no_step_depends_on_is_named():
    problem, hparams = sgd_everything()
    with pytest.raises(ValueError, match=r"'init_scale'.*no short-term effect"):
        tower(problem, hparams, lambda k: optim.sgd(k["lr"]))


def test_another_loss_is_refused():
    problem, hparams = sgd_everything()
    with pytest.raises(ValueError, match="but got loss='train'"):
        tower(problem, hparams, lambda k: optim.sgd(0.1), loss="train")


def test_a_problem_without_inner_loss_has_no_next_batch_loss():
    problem, hparams = sgd_everything()
    with pytest.raises(ValueError, match="needs the problem's inner_loss"):
        tower(
            replace(problem, inner_loss=None),
            hparams,
            lambda k: optim.sgd(0.1),
            loss="next_batch",
        )


def test_a_start_that_does_not_fit_the_space_is_refused():
    problem, hparams = sgd_everything()
    with pytest.raises(ValueError, match="unknown hyperparameter 'init_scale'"):
        tower(problem, hparams, lambda k: optim.sgd(0.1), space=SPACE)
