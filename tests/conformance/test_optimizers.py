"""Every inner optimizer; a new one is one line in `optimizers.CASES`."""

import inspect
from functools import partial

import pytest
import torch

from raymeta import optim
from raymeta.hypergrad import Reverse, hypergradient
from raymeta.optim import Memory, Optimizer
from raymeta.testing.optimizers import (
    OptimizerConformance,
    TorchOptimizerConformance,
    as_tensors,
    assert_equal,
    final,
    gradients,
    torch_step,
)
from raymeta.testing.problems import curved_layers, random_tensors
from raymeta.testing.truth import largest_relative_error, vectorized_differences
from raymeta.types import Hparams
from tests.conformance.optimizers import CASES, ESSENTIAL, JOINT, SINGULAR_AT_ZERO

pytestmark = pytest.mark.usefixtures("float64")


class TestRules(OptimizerConformance):
    @pytest.fixture(params=ESSENTIAL)
    def name(self, request):
        return request.param

    @pytest.fixture
    def make(self, name):
        return CASES[name].rule

    @pytest.fixture
    def settings(self, name):
        return CASES[name].settings

    @pytest.fixture
    def joint(self):
        return JOINT

    @pytest.fixture
    def singular_at_zero(self, name):
        return SINGULAR_AT_ZERO.get(name, set())


#: What our memories call, by the papers' letters, what torch.optim keeps.
OURS = {
    "momentum_buffer": "velocity",
    "exp_avg": "m",
    "exp_avg_sq": "v",
    "square_avg": "v",
    "max_exp_avg_sq": "v_max",
    "mu_product": "mu_product",
    "grad_avg": "mean",
    "sum": "total",
    "acc_delta": "u",
}


class TestAgainstTorch(TorchOptimizerConformance):
    @pytest.fixture(params=CASES)
    def case(self, request):
        return CASES[request.param]

    @pytest.fixture
    def make(self, case):
        return case.rule

    @pytest.fixture
    def settings(self, case):
        return case.settings

    @pytest.fixture
    def reference(self, case):
        return partial(case.reference, **case.flags)

    def test_goes_on_from_a_warm_torch_optimizer(self, make, settings, reference):
        start, grads = random_tensors(0), gradients(14)
        theirs = {k: torch.nn.Parameter(w.clone()) for k, w in start.items()}
        optimizer = reference(theirs.values(), **settings)
        for g in grads[:7]:
            torch_step(optimizer, theirs, g)
        rule = make(**as_tensors(settings))
        memory = rule.init(start)
        assert isinstance(memory, Memory)
        slots = {}
        for key, cold in memory.slots.items():
            state = optimizer.state[theirs[key]]
            warm = {OURS[k]: x.clone() for k, x in state.items() if k in OURS}
            slots[key] = cold._replace(**warm)
        memory = Memory(slots, torch.tensor(7))
        params = {k: p.detach().clone() for k, p in theirs.items()}
        for t, g in enumerate(grads[7:], start=7):
            params, memory = rule.update(g, memory, params, torch.tensor(t))
            torch_step(optimizer, theirs, g)
            assert_equal(params, theirs)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ESSENTIAL])
def test_the_mirror_image_of_a_rule_has_its_true_hypergradient(name):
    case = CASES[name]
    problem, hparams = (
        curved_layers(lambda h: case.rule(**h)),
        as_tensors(case.settings),
    )
    grads = hypergradient(problem, hparams, Reverse(8)).grads
    truth = vectorized_differences(problem, hparams, 8, 1e-5)
    assert largest_relative_error(grads, truth) < 1e-6


#: How torch.optim computes, not what: no business of a pure function.
IMPLEMENTATION = {"params", "foreach", "capturable", "differentiable", "fused"}
IN_TORCH = ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta"]


@pytest.mark.parametrize("name", IN_TORCH)
def test_has_every_argument_of_torch_and_its_default(name):
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    ours = inspect.signature(getattr(optim, name.lower())).parameters
    assert theirs.keys() - ours.keys() == IMPLEMENTATION & theirs.keys()
    assert ours.keys() - theirs.keys() <= {"eps_root"}
    for key, parameter in ours.items():
        if parameter.default is not inspect.Parameter.empty and key in theirs:
            assert parameter.default == theirs[key].default


@pytest.mark.parametrize("make", [optim.adam, optim.adamw, optim.nadam, optim.radam])
def test_a_root_of_no_gradient_has_a_bounded_derivative(make):
    rule = make(0.1, betas=(0.0, 0.9), eps=1e-8, eps_root=torch.tensor(1e-4))
    g = torch.full((1,), 1e-12, requires_grad=True)
    params = {"w": torch.zeros(1)}
    memory = rule.init(params)._replace(step=torch.tensor(99))  # RAdam rectifies
    ours, _ = rule.update({"w": g}, memory, params, torch.tensor(9))
    (slope,) = torch.autograd.grad(ours["w"].sum(), g)
    assert 1.0 < -float(slope) < 100.0  # α / √ε_r, where that of Adam itself is 10^7


def test_every_rule_has_a_case():
    helpers = {
        "export_schedule",
        "first_order",
        "from_torch",
        "load_schedule",
        "replay_with_torch",
        "tensorwise",
    }
    rules = {name for name in optim.__all__ if name.islower()} - helpers - {"muon"}
    assert rules == {name.partition("-")[0].partition(".")[0] for name in CASES}


def test_the_cases_meet_both_branches():
    def head(name: str) -> torch.Tensor:
        case = CASES[name]
        rule = case.rule(**case.settings)
        return final(rule, random_tensors(0), gradients(12))["head"]

    assert not torch.allclose(head("adam"), head("adam-amsgrad"))
    vectors = [torch.cat([g.flatten() for g in t.values()]) for t in gradients(3)]
    norms, largest = ([f(v) for v in vectors] for f in (torch.norm, torch.max))
    assert min(norms) < CASES["clip_by_norm-sgd"].settings["max_norm"] < max(norms)
    assert min(largest) < CASES["clip_by_value-sgd"].settings["value"] < max(largest)


def test_a_float32_bias_correction_is_torchs():
    w, g = torch.ones(4, dtype=torch.float32), torch.full((4,), 1e-3).float()
    rule = optim.adam(0.1)
    ours, _ = rule.update({"w": g}, rule.init({"w": w}), {"w": w}, torch.tensor(0))
    p = torch.nn.Parameter(w.clone())
    p.grad = g
    torch.optim.Adam([p], 0.1).step()
    torch.testing.assert_close(ours["w"], p.detach(), rtol=1e-7, atol=0)


def test_a_centered_variance_below_zero_counts_as_zero():
    rule = optim.rmsprop(0.1, alpha=0.5, eps=1.0, centered=True)
    params = {"w": torch.zeros(1)}
    memory = rule.init(params)
    slot = memory.slots["w"]._replace(v=torch.ones(1), mean=torch.full((1,), 1 + 1e-9))
    grads = {"w": torch.ones(1)}
    memory = memory._replace(slots={"w": slot})
    new, _ = rule.update(grads, memory, params, torch.tensor(0))
    assert float(new["w"]) == -0.1


def test_clipping_by_norm_has_one_bound():
    with pytest.raises(ValueError, match=r"one max_norm.*\['layer'\]: use clip_by_v"):
        optim.clip_by_norm(optim.sgd(0.1), {"layer": 1.0})


def test_nesterov_needs_momentum_without_dampening():
    with pytest.raises(ValueError, match="momentum and no dampening"):
        optim.sgd(0.1, nesterov=True)
    with pytest.raises(ValueError, match="momentum and no dampening"):
        optim.sgd(0.1, momentum=0.9, dampening=0.1, nesterov=True)


def test_a_matrix_for_all_parameters_is_refused():
    with pytest.raises(ValueError, match=r"shape \(\) or \(T,\), but got \(2, 2\)"):
        optim.sgd(torch.ones(2, 2)).init({"w": torch.ones(2)})


def test_a_plain_zero_momentum_keeps_no_buffer():
    rule = optim.sgd(0.1, momentum={"layer": 0.0, "head": torch.tensor(0.0)})
    slots = rule.init(random_tensors(0)).slots
    assert slots["layer.weight"].velocity == slots["layer.bias"].velocity == ()
    assert torch.equal(slots["head"].velocity, torch.zeros(2))


def test_radam_is_differentiable_on_both_sides_of_its_rectification():
    # ρ is 5 for k = 8 at a β2 near 0.83.
    def optimizer(h: Hparams) -> Optimizer:
        return optim.radam(0.1, betas=(0.9, h["beta2"]), eps=1e-3)

    problem = curved_layers(optimizer)
    for beta2 in (0.0, 0.3, 1 / 3, 0.6, 0.7, 0.8, 0.9, 0.99, 0.999):
        hparams = {"beta2": torch.tensor(beta2)}
        truth = vectorized_differences(problem, hparams, 8, 1e-6)
        result = hypergradient(problem, hparams, Reverse(8))
        assert largest_relative_error(result.grads, truth) < 1e-6


def test_amsgrad_shares_the_derivative_of_a_tie():
    rule = optim.adam(0.1, betas=(0.0, 0.0), eps=0.0, amsgrad=True)
    g = torch.tensor([2.0], requires_grad=True)
    w = {"w": torch.zeros(1)}
    w, memory = rule.update({"w": g}, rule.init(w), w, torch.tensor(0))
    same = torch.tensor([2.0], requires_grad=True)
    _, memory = rule.update({"w": same}, memory, w, torch.tensor(1))
    grads = torch.autograd.grad(memory.slots["w"].v_max.sum(), [g, same])
    assert [float(x) for x in grads] == [2.0, 2.0]  # half of 2 g each


def test_lion_has_no_derivative_in_its_betas():
    case = CASES["lion"]
    problem = curved_layers(lambda h: case.make(**h))
    result = hypergradient(problem, as_tensors(case.settings), Reverse(5))
    assert result.grads["beta1"] == result.grads["beta2"] == 0
    assert result.grads["lr"] != 0
    assert result.grads["weight_decay"] != 0
