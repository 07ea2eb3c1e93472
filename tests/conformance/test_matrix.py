"""Every estimator × optimizer × kind of hyperparameter: the same, true gradients.

The whole cube would take minutes. Here each pair (estimator, optimizer), (estimator,
form of a setting) and (optimizer, form) is met, and every cell has every kind of
hyperparameter that acts elsewhere: see `everything`. Forward mode meets the optimizers
in `test_optimizers`, and here each form.
"""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from raymeta.compile import recurrence
from raymeta.hypergrad import (
    Checkpointed,
    Estimator,
    Forward,
    Hypergradient,
    Reverse,
    Reversible,
    hypergradient,
)
from raymeta.optim import sgd
from raymeta.problem import BilevelProblem, descent
from raymeta.testing.truth import largest_relative_error, vectorized_differences
from raymeta.types import Batch, Hparams, Tensors
from tests.conformance.everything import ALL_FORMS, everything
from tests.conformance.optimizers import CASES, ESSENTIAL
from tests.conformance.test_estimators import WHOLE

pytestmark = pytest.mark.usefixtures("float64")
STEPS = 10

#: Those of `test_estimators`, and one whose steps and derivatives are traced graphs.
ESTIMATORS: dict[str, Callable[[int], Estimator]] = {
    **{name: make for name, make in WHOLE.items() if name != "reverse"},
    "traced": lambda steps: Reverse(steps, compile=True),
}
CELLS = [
    (estimator, name, ALL_FORMS[(i + j) % len(ALL_FORMS)])
    for i, name in enumerate(ESSENTIAL)
    for j, estimator in enumerate(ESTIMATORS)
    # To trace takes long, and decoupled decay is adamw's.
    if not (estimator == "forward" and i % (len(ALL_FORMS) + 1))
    and not (estimator == "traced" and "decoupled" in name)
]

#: The optimizers that can be undone.
INVERTIBLE = {"sgd", "sgd.undamped", "clip_by_norm-sgd", "clip_by_value-sgd"}
#: Those of which `higher` differentiates every setting, the same for all elements.
HIGHER = {"sgd", "sgd.undamped", "sgd.undamped-nesterov", "sgd.plain"}
HIGHER |= {"rmsprop", "rmsprop.heavy", "adagrad", "adadelta"}


def refusal(estimator: str, name: str, form: str) -> str | None:
    """What an estimator says that cannot take an optimizer's steps."""
    if estimator == "reversible" and name not in INVERTIBLE:
        return "Reversible needs an optimizer whose update has an inverse"
    taken = name in HIGHER and not form.startswith("elements")
    if estimator == "reverse-higher" and not taken:
        return "engine='higher' needs "
    return None


@pytest.fixture(autouse=True)
def _replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs run operator by operator: it would take seconds to compile each."""
    monkeypatch.setattr(recurrence, "build", lambda graph, *_: graph.forward)


@cache
def truth(name: str, form: str) -> Hypergradient:
    """By reverse mode, eagerly."""
    return hypergradient(*everything(name, form), Reverse(STEPS))


def assert_agree(ours: Hypergradient, truth: Hypergradient) -> None:
    assert largest_relative_error(ours.grads, truth.grads) < 1e-8
    torch.testing.assert_close(ours.outer_loss, truth.outer_loss, rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", ESSENTIAL)
def test_reverse_agrees_with_central_differences(name):
    # The suite of optimizers has each in all forms.
    form = ALL_FORMS[ESSENTIAL.index(name) % len(ALL_FORMS)]
    problem, hparams = everything(name, form)
    expected = vectorized_differences(problem, hparams, STEPS, 1e-5)
    grads = truth(name, form).grads
    assert largest_relative_error(grads, expected) < 1e-6
    # A sign, in which the loss acts on a step of Lion, has derivative 0.
    assert name == "lion" or all(bool(grad.any()) for grad in grads.values())


@pytest.mark.parametrize(("estimator", "name", "form"), CELLS)
def test_agrees_with_reverse(estimator, name, form):
    problem, hparams = everything(name, form)
    if message := refusal(estimator, name, form):
        with pytest.raises(ValueError, match=message):
            hypergradient(problem, hparams, ESTIMATORS[estimator](STEPS))
        return
    result = hypergradient(problem, hparams, ESTIMATORS[estimator](STEPS))
    assert_agree(result, truth(name, form))


#: What may be exactly 0, the derivative at 0 being finite: in an optimizer, elsewhere.
ZERO_SETTINGS = {"momentum", "dampening", "weight_decay", "beta1"}
ZERO_SETTINGS |= {"lr_decay", "momentum_decay"}
ZEROS = ("smoothing", "penalty", "loss out")


def zeros(name: str) -> tuple[str, ...]:
    return (*ZEROS, *sorted(ZERO_SETTINGS & CASES[name].settings.keys()))


@pytest.mark.parametrize("name", ESSENTIAL)
def test_reverse_agrees_with_central_differences_at_zeros(name):
    problem, hparams = everything(name, zeros=zeros(name))
    assert sum(not value.any() for value in hparams.values()) >= len(ZEROS) + 1
    grads = hypergradient(problem, hparams, Reverse(STEPS)).grads
    # Closer against curvature, further away against rounding.
    truths = [
        vectorized_differences(problem, hparams, STEPS, step)
        for step in (1e-3, 1e-4, 1e-5)
    ]
    assert min(largest_relative_error(grads, truth) for truth in truths) < 1e-6


def ridge() -> tuple[BilevelProblem, Hparams]:
    """Three weights; every third batch is shorter."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, 3, generator=generator)

    def loss(params: Tensors, x: Tensor) -> Tensor:
        return (x @ params["w"] - x.sum(1).sin()).square().mean()

    def batch(t: int) -> Batch:
        return Batch(torch.tensor(t), x[t % 3, : 2 if t % 3 == 2 else 4])

    problem = descent(
        init_params=lambda h: {"w": h["scale"] * torch.ones(3)},
        inner_loss=lambda params, h, b: (
            loss(params, b.data) + (h["l2"] * params["w"].square()).sum()
        ),
        outer_loss=lambda params, h: loss(params, x[0]),
        optimizer=lambda h: sgd(h["lr"], momentum=h["momentum"]),
        batch=batch,
    )
    values = {"lr": 0.1, "momentum": 0.6, "l2": 0.05, "scale": 1.3}
    return problem, {name: torch.tensor(value) for name, value in values.items()}


def test_nothing_traced_is_stale_after_an_outer_step():
    problem, hparams = ridge()  # One for all: they share its graphs.
    moved = {name: 1.1 * value + 0.01 for name, value in hparams.items()}
    later = {
        "start": hparams,
        "moved": moved,
        "float32": {**moved, "lr": moved["lr"].float()},
        "a schedule": {**moved, "lr": moved["lr"] * torch.linspace(1.0, 0.5, 4)},
        "per weight": {**moved, "l2": torch.linspace(0.0, 0.1, 3)},
        "a number": {**moved, "lr": 0.2, "momentum": 0.0},
        "another number": {**moved, "lr": 0.3, "momentum": 0.5},
        "moved back": hparams,
    }
    estimators = [
        Forward(7),
        Reverse(7, compile=True),
        Checkpointed(7, compile=True),
        Reversible(7, fractional_bits=56, compile=True),
    ]
    for name, at in later.items():
        fresh = ridge()[0]
        truth = hypergradient(fresh, at, Reverse(7)).grads
        for estimator in estimators[: 3 if name == "a number" else 4]:
            grads = hypergradient(problem, at, estimator).grads
            for key, grad in truth.items():
                tolerance = 1e-6 if grad.dtype == torch.float32 else 1e-8
                assert grads[key].dtype == grad.dtype == at[key].dtype
                error = float((grads[key] - grad).norm() / grad.norm())
                assert error < tolerance, (name, estimator)
