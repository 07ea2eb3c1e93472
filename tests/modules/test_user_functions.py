"""What is given to `module_problem` as a function, and what it must return."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raymeta.hypergrad import (
    Checkpointed,
    Forward,
    Reverse,
    hypergradient,
)
from raymeta.outer.report import plain_run
from raymeta.problem import BilevelProblem
from raymeta.testing.truth import largest_relative_error, run_differences
from tests.support.module_cases import data, hparams_of, mlp, problem_of

pytestmark = pytest.mark.usefixtures("float64")


def stepped(net: nn.Module, **others: Any) -> BilevelProblem:
    problem = problem_of(net, **others)
    problem.step(problem.init(hparams_of()), hparams_of(), problem.batch(0))
    return problem


def counting() -> Callable[..., Tensor]:
    calls = []

    def loss(z: Tensor, y: Tensor, *_: Any) -> Tensor:
        calls.append(0)
        return len(calls) * F.cross_entropy(z, y)

    return loss


class Learned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor, y: Tensor, *_: Any) -> Tensor:
        return self.scale * F.cross_entropy(z, y)


def reading(net: nn.Module) -> Callable[..., Tensor]:
    return lambda z, y, *_: F.cross_entropy(z, y) + net[0].weight.square().sum()


NET = mlp().double()
LOSSES = {
    "not reduced": (nn.CrossEntropyLoss(reduction="none"), r"shape \(\), but returned"),
    "with logs": (lambda z, y: (z.sum(), {}), "the loss alone"),
    "a number": (
        lambda z, y: F.cross_entropy(z, y).item(),
        r"without float\(\) or .it",
    ),
    "detached": (lambda z, y: F.cross_entropy(z, y).detach(), "leave out .detach"),
    "without a graph": (torch.no_grad()(F.cross_entropy), r"torch.no_grad\(\)"),
    "integers": (lambda z, y: (z.argmax(1) == y).sum(), "int64"),
    "complex": (lambda z, y: z.sum() * 1j, "complex128: take its"),
    "None": (lambda z, y: None, "returned a NoneType"),
    "a class": (nn.CrossEntropyLoss, "CrossEntropyLoss: give loss=CrossEntropyLoss()"),
    "no function": (3, "but got a int: give a function"),
    "one argument": (lambda z: z.sum(), r"with \(outputs, targets\), but takes \(z\)"),
    "three arguments": (lambda net, z, y: z.sum(), r"but takes \(net, z, y\): missing"),
    "weights of its own": (Learned(), "'scale' among them, which nothing would train"),
    "weights of the module": (reading(NET), "reads the module's own '0.weight'"),
    "weights of another": (
        lambda z, y: NET[0](z[:, :1].expand(-1, 5)).sum(),
        "reads the module's own",
    ),
    "counting": (counting(), "returns another value when it is called again"),
    "other targets": (
        lambda z, y: F.cross_entropy(z, y.double()),
        r"outputs of shape \(8, 3\) and float64, targets of shape \(8,\) and int64: Ru",
    ),
    "broadcasting": (
        lambda z, y: (z[:, :1] * 1.0 - y).square().mean(),
        None,
    ),
    "broadcast": (lambda z, y: F.mse_loss(z, y), "fails for|broadcast to"),
    "infinite": (lambda z, y: z.sum() / 0.0, "needs a finite value to start from"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_refused_at_construction_in_one_line(name):
    loss, message = LOSSES[name]
    if message is None:  # of what is computed from them nothing is known
        assert problem_of(NET, loss=loss)
        return
    with pytest.raises(ValueError, match=message.replace("()", r"\(\)")) as caught:
        problem_of(NET, loss=loss)
    assert "\n" not in str(caught.value)


def test_targets_that_meet_the_outputs_of_others_are_refused():
    x, y = data(1).tensors
    one = torch.utils.data.TensorDataset(x, y.double())
    for loss in (F.mse_loss, F.l1_loss, lambda z, y: (z - y).square().mean()):
        with pytest.raises(
            ValueError, match=r"\(8,\) and \(8, 1\) broadcast to \(8, 8"
        ):
            problem_of(nn.Linear(1, 1), train=one, val=one, loss=loss)


def test_weights_that_are_frozen_or_detached_may_be_read():
    frozen, start = Learned().requires_grad_(False), NET[0].weight.detach()

    def anchored(params: dict[str, Tensor], h: Any) -> Tensor:
        return (params["0.weight"] - NET[0].weight.detach()).square().sum()

    problem = stepped(NET, loss=frozen, regularizer=anchored)
    other = stepped(
        NET,
        regularizer=lambda p, h: (p["0.weight"] - start).square().sum(),
    )
    assert (
        plain_run(problem, hparams_of(), 3)[1] == plain_run(other, hparams_of(), 3)[1]
    )


AT_FIRST_USE = {
    "train_loss not reduced": (
        {"train_loss": lambda z, y, h, i: F.cross_entropy(z, y, reduction="none")},
        r"train_loss must return .* shape \(\), but returned shape \(8,\)",
    ),
    "train_loss detached": (
        {"train_loss": lambda z, y, h, i: F.cross_entropy(z, y).detach()},
        "train_loss must have a gradient",
    ),
    "train_loss that fails": (
        {"train_loss": lambda z, y, h, i: F.cross_entropy(z, y.double())},
        r"train_loss fails for outputs of shape \(8, 3\)",
    ),
    "train_loss that counts": (
        {"train_loss": counting()},
        "train_loss must be a funct",
    ),
    "train_loss with weights": ({"train_loss": Learned()}, "train_loss has weights"),
    "train_loss of two": (
        {"train_loss": F.cross_entropy},
        None,
    ),
    "train_loss of three": (
        {"train_loss": lambda z, y, h: z.sum()},
        r"train_loss is called with \(outputs, targets, hparams, index\), but takes",
    ),
    "regularizer not reduced": (
        {"regularizer": lambda p, h: p["0.weight"].square()},
        "regularizer must return a floating-point tensor",
    ),
    "regularizer of one": (
        {"regularizer": lambda p: p["0.weight"].sum()},
        r"regularizer is called with \(params, hparams\), but takes \(p\)",
    ),
    "regularizer of the module": (
        {"regularizer": lambda p, h: sum(w.square().sum() for w in NET.parameters())},
        "regularizer must be a function of its arguments, but reads the module's own",
    ),
    "augment of three": (
        {"augment": lambda x, y, h: (x, y)},
        r"augment is called with \(inputs, targets, hparams, noise\)",
    ),
    "augment that gives a tensor": (
        {"augment": lambda x, y, h, noise: (x[0], y)},
        r"must return \(\(inputs…\), targets\), but returned \(Tensor, Tensor\): ret",
    ),
    "augment that gives inputs": (
        {"augment": lambda x, y, h, noise: x[0]},
        "augment must return .* but returned a Tensor",
    ),
    "a metric of each example": (
        {"metrics": {"m": lambda z, y: z.argmax(1) == y}, "test": data(n=4)},
        r"metrics\['m'\] must return one number, but returned a tensor of shape \(8,\)",
    ),
    "a metric of one": (
        {"metrics": {"m": torch.nn.Identity().forward}, "test": data(n=4)},
        r"metrics\['m'\] is called with \(outputs, targets\), but takes",
    ),
    "init_params of one": (
        {"init_params": lambda p: p},
        r"init_params is called with \(params, hparams\), but takes \(p\)",
    ),
    "frozen of none": ({"frozen": dict}, "frozen"),
}


@pytest.mark.parametrize("name", AT_FIRST_USE)
def test_a_function_is_refused_by_its_name(name):
    others, message = AT_FIRST_USE[name]
    if (
        message is None
    ):  # which takes weights third, and sizes: it fails at its first use
        message = "train_loss fails for outputs"
    with pytest.raises(ValueError, match=message) as caught:
        stepped(NET, **others)
    assert "\n" not in str(caught.value)


def test_a_metric_may_be_a_number_of_python():
    metric = lambda z, y: float((z.argmax(1) == y).double().mean())  # noqa: E731
    problem = problem_of(mlp(), metrics={"accuracy": metric}, test=data(n=4))
    found = problem.metrics(problem.init(hparams_of()), hparams_of())
    assert 0 <= float(found["test_accuracy"]) <= 1


def _noisy(draw: Callable[[Tensor], Any]) -> dict[str, Any]:
    def train_loss(z: Tensor, y: Tensor, h: Any, index: Tensor) -> Tensor:
        return F.cross_entropy(z * (1 + draw(z)), y)

    def augment(inputs: tuple, y: Tensor, h: Any, noise: Any) -> Any:
        return (inputs[0] + draw(inputs[0]),), y

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z * (1 + draw(z)), y)

    def regularizer(p: Any, h: Any) -> Tensor:
        return (p["0.weight"] * draw(p["0.weight"])).sum()

    return {
        "loss": {"loss": loss},
        "train_loss": {"train_loss": train_loss},
        "augment": {"augment": augment},
        "regularizer": {"regularizer": regularizer},
    }


DRAWS = {
    "with a rule": torch.randn_like,
    "without a rule": lambda z: z[torch.randperm(len(z))].detach(),
    "python": lambda z: random.random(),
    "numpy": lambda z: float(np.random.rand()),  # noqa: NPY002
}


@pytest.mark.parametrize("name", ["loss", "train_loss", "augment", "regularizer"])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_what_a_function_draws_is_a_function_of_seed_and_step(draw, name):
    problem, again = (problem_of(mlp(), **_noisy(draw)[name]) for _ in range(2))
    truth = run_differences(problem, hparams_of(), 3)
    for estimator in (Reverse(3), Checkpointed(3), Forward(3)):
        grads = hypergradient(problem, hparams_of(), estimator).grads
        assert largest_relative_error(grads, truth) < 1e-6
    assert (
        plain_run(problem, hparams_of(), 3)[1] == plain_run(again, hparams_of(), 3)[1]
    )
    moved = problem_of(mlp(), **_noisy(draw)[name], seed=9)
    state = problem.init(hparams_of())
    one, other = (
        p.inner_loss(state, hparams_of(), problem.batch(0)) for p in (problem, moved)
    )
    assert float(one) != float(other)


def test_initial_weights_that_are_drawn_are_a_function_of_the_seed():
    def drawn(params: dict[str, Tensor], h: Any) -> dict[str, Tensor]:
        return {name: 0.3 * torch.randn_like(p) for name, p in params.items()}

    def start(seed: int) -> Tensor:
        problem = problem_of(mlp(), init_params=drawn, seed=seed)
        first, second = (problem.init(hparams_of()).params["0.weight"] for _ in "ab")
        assert torch.equal(first, second)
        return first

    assert torch.equal(start(3), start(3))
    assert not torch.equal(start(3), start(4))


def overwriting(z: Tensor, y: Tensor, *_: Any) -> Tensor:
    """Losses may write into what they get."""
    y.add_(1).remainder_(z.shape[1])
    return F.cross_entropy(z.sub_(z.detach().mean()), y)


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("estimator", [Reverse(3), Checkpointed(3), Forward(3)])
def test_a_loss_may_write_into_its_arguments(estimator, batch_size):
    problem = problem_of(mlp().double(), loss=overwriting, batch_size=batch_size)
    grads = hypergradient(problem, hparams_of(), estimator).grads
    truth = run_differences(problem, hparams_of(), 3)
    assert largest_relative_error(grads, truth) < 1e-6


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("estimator", [Reverse(3), Forward(3)])
def test_weights_of_classes_are_learnt(estimator, smoothing):
    problem = problem_of(
        mlp().double(),
        train_loss=lambda z, y, h, index: F.cross_entropy(
            z, y, weight=h["weights"], label_smoothing=smoothing
        ),
    )
    hparams = hparams_of() | {"weights": torch.linspace(0.5, 2.0, 3)}
    # A run without derivatives before must not decide how they are taken.
    plain_run(problem, hparams, 1)
    grads = hypergradient(problem, hparams, estimator).grads
    truth = run_differences(problem, hparams, 3)
    assert largest_relative_error(grads, truth) < 1e-6


def test_a_run_without_derivatives_does_not_decide_what_has_them():
    problem = problem_of(
        mlp().double(),
        augment=lambda x, y, h, noise: ((x[0] * h["scale"].detach(),), y),
    )
    hparams = hparams_of() | {"scale": torch.tensor(1.5)}
    truth = run_differences(problem, hparams, 3)
    grads = hypergradient(problem, hparams, Reverse(3)).grads
    assert largest_relative_error(grads, truth) < 1e-6
