"""Complex weights are pairs of real ones, to rules and to estimators."""

import pytest
import torch
from torch import Tensor

from raymeta import hypergrad, optim
from raymeta.hypergrad import hypergradient
from raymeta.problem import BilevelProblem, descent
from raymeta.testing.optimizers import as_tensors, assert_equal
from raymeta.testing.truth import largest_relative_error, run_differences
from raymeta.types import Batch, Hparams, Tensors
from tests.conformance.optimizers import CASES, ESSENTIAL

pytestmark = pytest.mark.usefixtures("float64")
SHAPES = {"layer.weight": (2, 3), "layer.bias": (), "head": (2,)}


def complex_tensors(seed: int, scale: float = 1.0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(shape, generator=generator, dtype=torch.complex128)
        for name, shape in SHAPES.items()
    }


def trained(rule: optim.Optimizer, params: Tensors, pairs: bool) -> Tensors:
    """Twelve steps; on pairs of real numbers in place of complex ones."""
    real = torch.view_as_real if pairs else torch.clone
    params = {name: real(w) for name, w in params.items()}
    memory = rule.init(params)
    for t in range(12):
        grads = complex_tensors(100 + t, (0.1, 0.02, 1.0)[t % 3])
        grads = {name: real(g) for name, g in grads.items()}
        params, memory = rule.update(grads, memory, params, torch.tensor(t))
    return params


#: torch.optim has no Lion, and does not clip complex gradients by value.
IN_TORCH = [n for n in ESSENTIAL if "lion" not in n and "by_value" not in n]


@pytest.mark.parametrize("name", IN_TORCH)
@pytest.mark.parametrize("plain", [True, False], ids=["numbers", "tensors"])
def test_rules_follow_torch_optim(name, plain) -> None:
    case, start = CASES[name], complex_tensors(0)
    settings = case.settings if plain else as_tensors(case.settings)
    ours = trained(case.make(**settings, **case.flags), start, pairs=False)
    theirs = {k: torch.nn.Parameter(w.clone()) for k, w in start.items()}
    optimizer = case.reference(theirs.values(), **case.settings, **case.flags)
    for t in range(12):
        grads = complex_tensors(100 + t, (0.1, 0.02, 1.0)[t % 3])
        for k, p in theirs.items():
            p.grad = grads[k].clone()
        optimizer.step()
    assert_equal(ours, theirs)


@pytest.mark.parametrize("name", [n for n in ESSENTIAL if "by_value" not in n])
def test_settings_of_each_element_hold_for_both_parts(name) -> None:
    case, start = CASES[name], complex_tensors(0)
    lr = {k: torch.rand(shape) / 10 for k, shape in SHAPES.items()}
    twice = {k: x.unsqueeze(-1) for k, x in lr.items()}
    rules = (case.make(**{**case.settings, "lr": x}, **case.flags) for x in (lr, twice))
    whole, pairs = (trained(r, start, p) for r, p in zip(rules, (0, 1), strict=True))
    assert_equal({k: torch.view_as_real(w) for k, w in whole.items()}, pairs)


def test_what_has_no_order_is_not_clipped_by_value() -> None:
    rule = optim.clip_by_value(optim.sgd(0.1), 0.2)
    with pytest.raises(ValueError, match="clip_by_value needs real weights, but 'lay"):
        rule.init(complex_tensors(0))


def spectrum(rule) -> tuple[BilevelProblem, Hparams]:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 3, 6, generator=generator)

    def output(params: Tensors) -> Tensor:
        kept = torch.fft.rfft(x) * params["w"] * params["scale"]
        return torch.tanh(torch.fft.irfft(kept, n=6))

    def inner_loss(params: Tensors, hparams: Hparams, batch: Batch) -> Tensor:
        penalty = sum(w.abs().square().sum() for w in params.values())
        return (output(params) - y).square().mean() + hparams["l2"] * penalty

    start = torch.randn(4, generator=generator, dtype=torch.complex128)
    problem = descent(
        init_params=lambda h: {"w": h["size"] * start, "scale": torch.tensor(0.7)},
        inner_loss=inner_loss,
        outer_loss=lambda p, h: (output(p) - y.roll(1, 0)).square().mean(),
        optimizer=rule,
    )
    lr, size, l2 = torch.tensor([0.1, 0.8, 0.01])
    return problem, {"lr": lr, "size": size, "l2": l2}


ESTIMATORS = [
    hypergrad.Reverse(5),
    hypergrad.Reverse(5, compile=True),
    hypergrad.Checkpointed(5),
    hypergrad.Checkpointed(5, states=2, compile=True),
    hypergrad.Truncated(5, 5),
    hypergrad.Forward(5),
    hypergrad.Forward(5, compile=True),
]
RULES = {
    "sgd": lambda h: optim.sgd(h["lr"], momentum=0.8, weight_decay=0.1),
    "adam": lambda h: optim.adam(h["lr"], eps=1e-2),
    "clipped": lambda h: optim.clip_by_norm(optim.sgd(h["lr"]), 0.1),
}


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_estimators_agree_with_differences(estimator, rule) -> None:
    problem, hparams = spectrum(RULES[rule])
    found = hypergradient(problem, hparams, estimator)
    truth = run_differences(problem, hparams, 5)
    assert largest_relative_error(found.grads, truth) < 1e-6


def test_one_step_ahead() -> None:
    problem, hparams = spectrum(RULES["adam"])
    hparams.pop("size")
    problem, _ = spectrum(lambda h: optim.adam(h["lr"], eps=1e-2))
    whole = hypergradient(problem, {**hparams, "size": 1}, hypergrad.ShortTerm())
    truth = run_differences(problem, {**hparams, "size": 1}, 1)
    assert largest_relative_error(whole.grads, truth) < 1e-6


def test_implicit_at_a_minimum() -> None:
    """Of a quadratic: w* = c / (1 + l2) moves by -c / (1 + l2)²."""
    c, target = torch.tensor([1 + 2j, 3 - 1j]), torch.tensor([0.5j, 1 + 0j])
    problem = descent(
        init_params=lambda h: {"w": torch.zeros(2, dtype=torch.complex128)},
        inner_loss=lambda p, h, b: (
            (p["w"] - c).abs().square().sum() + h["l2"] * p["w"].abs().square().sum()
        ),
        outer_loss=lambda p, h: (p["w"] - target).abs().square().sum(),
        optimizer=lambda h: optim.sgd(0.2),
    )
    l2 = torch.tensor(0.5)
    found = hypergradient(problem, {"l2": l2}, hypergrad.Implicit(100))
    w, moved = c / (1 + l2), -c / (1 + l2) ** 2
    truth = 2 * ((w - target).conj() * moved).real.sum()
    torch.testing.assert_close(found.grads["l2"], truth, rtol=1e-6, atol=0)


def test_what_cannot_be_made_right_is_refused() -> None:
    problem, hparams = spectrum(RULES["sgd"])
    with pytest.raises(ValueError, match=r"^Reversible needs real weights, but 'w'"):
        hypergrad.Reversible(5).init(problem, hparams)
    with pytest.raises(ValueError, match=r"^engine='higher' needs real weights"):
        hypergrad.Reverse(5, engine="higher").init(problem, hparams)
    hparams["lr"] = hparams["lr"] + 0j
    for estimator in (hypergrad.Forward(5), hypergrad.ES(5, 0.1, 2)):
        with pytest.raises(ValueError, match="needs real hyperparameters, but 'lr'"):
            estimator.init(problem, hparams)
    with pytest.raises(ValueError, match="sgd needs a real lr that broadcasts"):
        hypergrad.Reverse(5).init(problem, hparams)
