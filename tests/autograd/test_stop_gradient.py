"""Stopped gradients and hooks act on training gradients, and not on hypergradients."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from raymeta import descent, hypergradient, meta, optim, tower
from raymeta.data.episodes import Episode, Examples
from raymeta.hypergrad import (
    Checkpointed,
    Forward,
    Implicit,
    Reverse,
    Reversible,
    ShortTerm,
)
from raymeta.problem import BilevelProblem
from tests.support.stopping_modules import (
    ESTIMATORS,
    MARKS,
    MODULES,
    STEPS,
    Detached,
    Equilibrium,
    Force,
    Inference,
    Net,
    NoGrad,
    Penalized,
    RunningMaximum,
    TensorHook,
    central_difference,
    data,
    hooked_parameters,
    make,
    of_lr,
    problem_of,
    trained,
)

pytestmark = MARKS


@pytest.mark.parametrize("module", MODULES)
def test_training_is_that_of_torch(module):
    if module is Inference:
        pytest.skip("torch itself cannot train it")
    net = make(module)
    problem = problem_of(net)
    own = net if module is hooked_parameters else copy.deepcopy(net)
    (x, y), sgd = data(), torch.optim.SGD(own.parameters(), 0.1, momentum=0.5)
    for _ in range(STEPS):
        sgd.zero_grad()
        F.mse_loss(own(x), y).backward()
        sgd.step()
    own.eval()
    inputs, targets = data(9)
    torch.testing.assert_close(
        trained(problem, 0.1),
        F.mse_loss(own(inputs), targets).item(),
        rtol=1e-12,
        atol=0,
    )


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("module", MODULES)
def test_hypergradients_see_what_training_gradients_do_not(module, name):
    if module in (Force, Penalized, Equilibrium) and name == "forward":
        pytest.skip("torch.func has no requires_grad_(): refused by Forward itself")
    problem = problem_of(make(module))
    right = central_difference(problem)
    assert of_lr(problem, ESTIMATORS[name]) == pytest.approx(right, rel=1e-6)


def test_evaluation_without_a_graph_may_take_derivatives_of_its_own():
    problem, hparams = problem_of(make(Penalized)), {"lr": torch.tensor(0.1)}
    state = problem.init(hparams)
    with torch.no_grad():
        value = problem.outer_loss(state, hparams)
    assert not value.requires_grad
    assert value == problem.outer_loss(state, hparams)


def test_compiled_steps_see_it_too():
    problem = problem_of(make(RunningMaximum))
    right = of_lr(problem, Reverse(STEPS))
    assert of_lr(problem, Checkpointed(STEPS, compile=True)) == pytest.approx(right)


def test_exactly_reversed_steps_see_it_too():
    problem = problem_of(make(Detached))
    right = of_lr(problem, Reverse(STEPS))
    assert of_lr(problem, Reversible(STEPS)) == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_losses_may_stop_gradients(name):
    def focal(outputs: Tensor, targets: Tensor) -> Tensor:
        errors = (outputs - targets).square()
        return (errors.detach().sqrt() * errors).mean()

    problem = problem_of(make(Net), focal)
    right = central_difference(problem)
    assert of_lr(problem, ESTIMATORS[name]) == pytest.approx(right, rel=1e-6)


def stationary() -> BilevelProblem:
    """Training follows 2 (w - λ w / 2 - 1), which is 0 at w* = 1 / (1 - λ / 2)."""
    return descent(
        init_params=lambda h: {"w": torch.zeros(())},
        inner_loss=lambda p, h, b: (p["w"] - h["a"] * p["w"].detach() / 2 - 1).square(),
        outer_loss=lambda p, h: p["w"].square(),
        optimizer=lambda h: optim.sgd(0.3),
    )


@pytest.mark.parametrize("estimator", [Implicit(200), Reverse(200), Forward(200)])
def test_losses_of_tensors_may_stop_gradients(estimator):
    a = 0.4
    found = hypergradient(stationary(), {"a": torch.tensor(a)}, estimator)
    # d(w*²)/dλ = 2 w* · (1/2) / (1 - λ/2)²
    right = (1 - a / 2) ** -3
    assert float(found.grads["a"]) == pytest.approx(right, rel=1e-9)


@pytest.mark.parametrize("module", [Net, Detached, hooked_parameters])
def test_the_next_batchs_loss_has_its_own_derivative(module):
    problem = problem_of(make(module))

    def next_loss(lr: float) -> float:
        hparams = {"lr": torch.tensor(lr)}
        state = problem.step(problem.init(hparams), hparams, problem.batch(0))
        return float(problem.inner_loss(state, hparams, problem.batch(1)))

    right = (next_loss(0.1 + 1e-5) - next_loss(0.1 - 1e-5)) / 2e-5
    estimator = ShortTerm(loss="next_batch")
    assert of_lr(problem, estimator) == pytest.approx(right, rel=1e-6)
    shared = estimator.cost(problem, {"lr": torch.tensor(0.1)}) == 1
    assert shared == (module is Net)


def test_a_tower_passes_through_as_well():
    problem = problem_of(make(Detached))
    learns = tower(
        problem, {"lr": torch.tensor(0.1)}, lambda kappa: optim.sgd(kappa["hyper_lr"])
    )

    def value(rate: float) -> float:
        kappa = {"hyper_lr": torch.tensor(rate)}
        state = learns.init(kappa)
        for t in range(3):
            state = learns.step(state, kappa, learns.batch(t))
        return float(learns.outer_loss(state, kappa))

    right = (value(0.01 + 1e-5) - value(0.01 - 1e-5)) / 2e-5
    found = hypergradient(learns, {"hyper_lr": torch.tensor(0.01)}, Reverse(3))
    assert float(found.grads["hyper_lr"]) == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize("engine", ["functional", "higher"])
@pytest.mark.parametrize("module", [Detached, NoGrad, TensorHook, hooked_parameters])
def test_meta_gradients_pass_through(module, engine):
    learner = meta.maml(
        make(module), loss=F.mse_loss, steps=2, optimizer=optim.sgd(0.2)
    )
    outer = meta.MetaModule(learner, engine=engine)
    x = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    examples = Examples(x, torch.tanh(x[..., :1]), torch.ones(3, 6))
    tasks = Episode(examples, examples)
    outer(tasks).loss.backward()
    theta = dict(outer.named_parameters())
    weight = next(p for name, p in theta.items() if name.endswith("a.weight"))
    way = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))

    def value(step: float) -> float:
        with torch.no_grad():
            weight.add_(step * way)
            loss = float(outer(tasks).loss)
            weight.sub_(step * way)
        return loss

    right = (value(1e-5) - value(-1e-5)) / 2e-5
    assert float((weight.grad * way).sum()) == pytest.approx(right, rel=1e-6)
