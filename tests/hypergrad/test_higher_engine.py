"""Reverse mode by `higher`: what it does right is true, all else is refused."""

import gc
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta import module_problem
from raymeta._tree import is_differentiable, tree_leaves, tree_map
from raymeta.hypergrad import Hypergradient, Reverse, Rollout
from raymeta.optim import Optimizer, Schedule, Setting, adam, sgd
from raymeta.problem import BilevelProblem, descent
from raymeta.testing.optimizers import FORMS, as_tensors
from raymeta.testing.problems import curved_layers, random_tensors, sgd_everything
from raymeta.testing.truth import largest_relative_error, vectorized_differences
from raymeta.types import Batch, Hparams, State, Tensors
from tests.conformance.optimizers import CASES, SINGULAR_AT_ZERO
from tests.support.memory import peak_bytes

pytestmark = pytest.mark.usefixtures("float64")

OPTIMIZERS = {"sgd", "adam", "rmsprop", "adagrad", "adadelta"}
REFUSED_FLAGS = {"maximize", "decoupled_weight_decay", "centered"}
#: Settings that may not be learned, be 0 as a tensor, or differ within a parameter.
CONSTANT = {"beta2"}
POSITIVE = {"weight_decay", "momentum", "initial_accumulator_value"}
ONE_NUMBER = {"weight_decay", "momentum", "beta2"}


def refusal(name: str) -> str | None:
    """What the error for a case says; None for what is not refused."""
    optimizer, *flags = name.split("-")
    if optimizer.partition(".")[0] not in OPTIMIZERS:
        return "sgd, adam, rmsprop, adagrad or adadelta, without clipping"
    if "eps_root" in CASES[name].settings:
        return "needs eps_root=0 in Adam"
    refused = "|".join(REFUSED_FLAGS & set(flags))
    return f"needs ({refused})=False in" if refused else None


TRUE = [name for name in CASES if refusal(name) is None]
each_true = pytest.mark.parametrize("name", TRUE)
each_refused = pytest.mark.parametrize("name", sorted(CASES.keys() - set(TRUE)))


def learned(name: str) -> Hparams:
    """All settings of a case that may be learned."""
    settings = CASES[name].settings
    return as_tensors({k: x for k, x in settings.items() if k not in CONSTANT})


def rule(name: str, hparams: Hparams) -> Optimizer:
    case = CASES[name]
    given = {key: hparams.get(key, base) for key, base in case.settings.items()}
    return case.make(**given, **case.flags)


def toy_of(name: str, **others: Setting) -> BilevelProblem:
    return curved_layers(lambda hparams: rule(name, {**hparams, **others}))


def run(
    problem: BilevelProblem, hparams: Hparams, estimator: Reverse
) -> tuple[Hypergradient, Rollout]:
    return estimator.estimate(problem, hparams, estimator.init(problem, hparams))


def assert_agree(
    problem: BilevelProblem, hparams: Hparams, steps: int, tolerance: float = 1e-11
) -> None:
    """Both engines have the same E, dE/dλ and s_T, the optimizer's memory included."""
    ours, at = run(problem, hparams, Reverse(steps))
    theirs, there = run(problem, hparams, Reverse(steps, engine="higher"))
    assert largest_relative_error(theirs.grads, ours.grads) < tolerance
    assert there.step == at.step
    pairs = zip(
        tree_leaves((theirs.outer_loss, there.state)),
        tree_leaves((ours.outer_loss, at.state)),
        strict=True,
    )
    for x, y in pairs:
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


def no_batch(t: int) -> NoReturn:
    raise AssertionError("a step was taken")


def assert_refused(problem: BilevelProblem, hparams: Hparams, message: str) -> None:
    """Before the first step, and with what to do instead."""
    problem = replace(problem, batch=no_batch)
    with pytest.raises(ValueError, match=rf"{message}.*: use engine='functional'"):
        run(problem, hparams, Reverse(4, engine="higher"))


@each_true
def test_every_setting_has_its_true_hypergradient(name):
    problem, hparams = toy_of(name), learned(name)
    assert_agree(problem, hparams, 20)
    result, _ = run(problem, hparams, Reverse(20, engine="higher"))
    truth = vectorized_differences(problem, hparams, 20, 1e-5)
    assert largest_relative_error(result.grads, truth) < 1e-6


@each_refused
def test_every_other_optimizer_and_flag_is_refused(name):
    assert_refused(toy_of(name), learned(name), refusal(name))


def test_what_is_not_refused_covers_every_optimizer():
    assert {name.partition("-")[0].partition(".")[0] for name in TRUE} == OPTIMIZERS
    flags = {flag for name in TRUE for flag in CASES[name].flags}
    assert flags == {"amsgrad", "nesterov"}


@pytest.mark.parametrize("form", FORMS)
@each_true
def test_settings_of_every_form_agree(name, form):
    instead = {"elements": "layers", "elements-steps": "steps"}

    def optimizer(h: Hparams) -> Optimizer:
        def setting(key: str, base: float) -> Setting:
            def value(*shape: int) -> torch.Tensor:
                # Each element starts elsewhere and moves with c in its own direction.
                c = torch.zeros(2) if key in CONSTANT else h["c"]
                angles = 20 * base + 1.7 * torch.arange(3.0 * math.prod(shape))
                u, v, w = (1 + torch.sin(angles.reshape(3, *shape))) / 2
                return base * (1 - 0.2 * u + c[0] * v - c[1] * w)

            own = instead.get(form, form) if key in ONE_NUMBER else form
            return FORMS[own](value)

        case = CASES[name]
        settings = {key: setting(key, base) for key, base in case.settings.items()}
        return case.make(**settings, **case.flags)

    assert_agree(curved_layers(optimizer), {"c": torch.zeros(2)}, 8)


@each_true
def test_one_number_for_all_elements_of_a_parameter(name):
    for key in CASES[name].settings.keys() & ONE_NUMBER:
        base = CASES[name].settings[key]
        given = FORMS["elements"](lambda *shape, x=base: torch.full(shape, x))
        message = rf"one {key} in \w+ for all elements of 'layer.weight'.*\(2, 3\)"
        assert_refused(toy_of(name, **{key: given}), {"lr": torch.tensor(0.1)}, message)


@each_true
def test_a_setting_at_zero_has_its_true_derivative_or_is_refused(name):
    for key in learned(name).keys() - SINGULAR_AT_ZERO.get(name, set()):
        problem, hparams = toy_of(name), {key: torch.tensor(0.0)}
        if key in POSITIVE:
            assert_refused(problem, hparams, rf"needs {key} > 0 in \w+ wherever")
        else:
            assert_agree(problem, hparams, 4)


@pytest.mark.parametrize("name", ["sgd", "rmsprop.heavy"])
def test_a_zero_is_found_at_any_step_and_in_any_layer(name):
    half = torch.tensor(0.5)
    for zero in (
        torch.tensor([0.5, 0.5, 0.0]),
        Schedule(torch.tensor([[0.5], [0.0]])),
        {"layer": half, "head": torch.tensor(0.0)},
        {"layer": half, "head": Schedule(torch.tensor([0.5, 0.0]))},
    ):
        problem = toy_of(name, momentum=zero)
        assert_refused(problem, {"lr": torch.tensor(0.1)}, "needs momentum > 0")
    plain = toy_of(name, momentum={"layer": half, "head": 0.0})
    assert_agree(plain, {"lr": torch.tensor(0.1)}, 4)


def test_a_learned_beta2_of_adam_is_refused_in_every_form():
    for given in (
        lambda beta2: beta2,
        lambda beta2: {"layer": 0.9, "head": beta2},
        lambda beta2: torch.stack([beta2, beta2]),
        lambda beta2: {"layer": 0.9, "head": Schedule(torch.stack([beta2, beta2]))},
    ):
        problem = curved_layers(
            lambda h, given=given: adam(0.1, betas=(0.9, given(h["beta2"])))
        )
        hparams = {"beta2": torch.tensor(0.9)}
        assert_refused(
            problem, hparams, "needs a constant beta2 in Adam, as higher cuts"
        )


@each_true
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_agrees_where_gradients_are_zero_or_missing(name, decay):
    def inner_loss(params: Tensors, hparams: Hparams, batch: Batch) -> torch.Tensor:
        late = params["head"].square().sum() * (batch.index >= 2)
        return late + params["zero"].square().sum()

    def outer_loss(params: Tensors, hparams: Hparams) -> torch.Tensor:
        return sum(w.square().sum() for w in params.values())

    problem = descent(
        # "layer.weight" and "layer.bias" never enter the inner loss.
        init_params=lambda hparams: random_tensors(0) | {"zero": torch.zeros(2)},
        inner_loss=inner_loss,
        outer_loss=outer_loss,
        optimizer=lambda h: rule(name, {**h, "weight_decay": decay}),
    )
    hparams = learned(name)
    del hparams["weight_decay"]
    assert_agree(problem, hparams, 5)
    result, _ = run(problem, hparams, Reverse(5, engine="higher"))
    assert all(bool(torch.isfinite(grad)) for grad in result.grads.values())


@each_true
@pytest.mark.parametrize("taken", [0, 7])
def test_goes_on_from_a_memory_that_depends_on_hyperparameters(name, taken):
    problem, hparams = toy_of(name), learned(name)
    _, rollout = run(problem, hparams, Reverse(7))
    hparams.pop("initial_accumulator_value", None)

    def init(h: Hparams) -> State:
        memory = rollout.state.memory
        memory = memory._replace(step=torch.tensor(taken))
        warm = rollout.state._replace(memory=memory)
        return tree_map(lambda x: x * h["heat"] if is_differentiable(x) else x, warm)

    warm = replace(problem, init=init)
    assert_agree(warm, {**hparams, "heat": torch.tensor(1.1)}, 6)


def test_a_module_with_buffers_randomness_and_a_frozen_layer():
    def data(n: int) -> TensorDataset:
        generator = torch.Generator().manual_seed(n)
        x = torch.randn(n, 5, generator=generator)
        return TensorDataset(x, torch.randint(3, (n,), generator=generator))

    net = nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 3)
    )
    net[0].bias.requires_grad_(False)
    problem = module_problem(
        net,
        loss=F.cross_entropy,
        train=data(22),
        val=data(14),
        batch_size=8,
        optimizer=lambda h: sgd(h["lr"], momentum=h["momentum"]),
        regularizer=lambda params, h: (
            h["l2"] * sum(p.square().sum() for p in params.values())
        ),
    )
    hparams = as_tensors({"lr": 0.2, "momentum": 0.6, "l2": 0.01})
    assert_agree(problem, hparams, 6)


def test_weights_that_were_computed_from_one_another():
    def init_params(hparams: Hparams) -> Tensors:
        w = torch.tensor([1.0, -2.0]) * hparams["scale"]
        return {"w": w, "same": w, "from_w": torch.tanh(w)}

    problem = descent(
        init_params=init_params,
        inner_loss=lambda p, h, b: (
            (p["w"] * p["from_w"]).sum() + (p["same"] ** 4).sum()
        ),
        outer_loss=lambda p, h: (p["w"] * p["from_w"] * p["same"]).sum(),
        optimizer=lambda h: sgd(h["lr"], momentum=0.5),
    )
    assert_agree(problem, as_tensors({"lr": 0.1, "scale": 0.7}), 5)


def test_one_step():
    assert_agree(*sgd_everything(), 1)


def test_a_training_loss_that_no_parameter_enters():
    problem = descent(
        init_params=lambda hparams: {"w": torch.ones(2) * hparams["start"]},
        inner_loss=lambda params, hparams, batch: torch.tensor(1.0),
        outer_loss=lambda params, hparams: params["w"].square().sum(),
        optimizer=lambda h: sgd(0.1, momentum=0.5, weight_decay=0.1),
    )
    assert_agree(problem, as_tensors({"start": 3.0}), 4)


def test_float64_settings_leave_float32_weights_as_they_are():
    shapes = {"w": (3,), "one": ()}
    problem = descent(
        init_params=lambda h: {k: torch.ones(s).float() for k, s in shapes.items()},
        inner_loss=lambda p, h, b: (p["w"].sin() * p["one"]).sum(),
        outer_loss=lambda p, h: (p["w"] * p["one"]).sum(),
        optimizer=lambda h: adam({"w": h["lr"], "one": 0.1}, betas=(h["beta1"], 0.9)),
    )
    hparams = {"lr": torch.linspace(0.1, 0.2, 3), "beta1": torch.tensor(0.8)}
    assert_agree(problem, hparams, 5, tolerance=1e-5)  # which compares dtypes, too


def test_a_step_that_is_no_descent_is_refused():
    problem, hparams = sgd_everything()
    stepped = replace(problem, step=lambda s, h, b: problem.step(s, h, b))
    assert_refused(stepped, hparams, "needs a problem whose step is a `Descent`")


def test_an_update_of_ones_own_around_a_known_one_is_refused():
    def optimizer(h: Hparams) -> Optimizer:
        known = sgd(h["lr"])

        def update(grads: Tensors, memory: State, params: Tensors, t: Any) -> Any:
            return known.update({k: 2 * g for k, g in grads.items()}, memory, params, t)

        return known._replace(update=update)

    hparams = {"lr": torch.tensor(0.1)}
    assert_refused(curved_layers(optimizer), hparams, "without clipping around it")


def test_an_unknown_engine_is_answered_with_a_guess():
    with pytest.raises(ValueError, match="engine 'highr': did you mean 'higher'"):
        Reverse(3, engine="highr")


def test_imports_higher_when_it_is_used_and_without_its_warnings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for module in [name for name in sys.modules if name.split(".")[0] == "higher"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))  # so it is compiled
    problem, hparams = sgd_everything()
    run(problem, hparams, Reverse(2))
    assert "higher" not in sys.modules
    run(problem, hparams, Reverse(2, engine="higher"))
    assert "higher" in sys.modules


def test_leaves_nothing_to_the_garbage_collector():
    problem, hparams = sgd_everything()

    def run_often(times: int) -> None:
        for _ in range(times):
            run(problem, hparams, Reverse(3, engine="higher"))

    run_often(1)
    gc.disable()
    try:
        assert peak_bytes(lambda: run_often(5)) <= peak_bytes(lambda: run_often(1))
    finally:
        gc.enable()
