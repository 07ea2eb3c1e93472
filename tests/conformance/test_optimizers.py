"""What every inner optimizer must do; a new one is one line in `optimizers.CASES`."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.func import vmap

from raymeta import optim
from raymeta._tree import tree_leaves
from raymeta.optim import Memory
from raymeta.types import Hparams, Tensors
from tests.conformance.optimizers import (
    CASES,
    Case,
    as_tensors,
    assert_equal,
    essential_case,
    every_case,
    every_form,
    final,
    formed,
    gradients,
    random_tensors,
)

pytestmark = pytest.mark.usefixtures("float64")


class Theirs:
    """A case's reference in torch, and the parameters that it trains."""

    def __init__(self, case: Case, start: Tensors) -> None:
        self.params = {k: torch.nn.Parameter(w.clone()) for k, w in start.items()}
        params = self.params.values()
        self.optimizer = case.reference(params, **case.settings, **case.flags)

    def step(self, grads: Tensors) -> None:
        for name, p in self.params.items():
            p.grad = grads[name].clone()
        self.optimizer.step()


@every_case
@pytest.mark.parametrize("plain", [True, False], ids=["numbers", "tensors"])
def test_follows_torch_optim_step_by_step(name, plain):
    case, start = CASES[name], random_tensors(0)
    settings = case.settings if plain else as_tensors(case.settings)
    rule = case.make(**settings, **case.flags)
    params, memory = start, rule.init(start)
    theirs = Theirs(case, start)
    for t, grads in enumerate(gradients(12)):
        params, memory = rule.update(grads, memory, params, torch.tensor(t))
        theirs.step(grads)
        assert_equal(params, theirs.params)


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


@every_case
def test_goes_on_from_a_warm_torch_optimizer(name):
    case, start, grads = CASES[name], random_tensors(0), gradients(14)
    theirs = Theirs(case, start)
    for g in grads[:7]:
        theirs.step(g)
    rule = case.make(**as_tensors(case.settings), **case.flags)
    memory = rule.init(start)
    assert isinstance(memory, Memory)
    slots = {}
    for key, cold in memory.slots.items():
        state = theirs.optimizer.state[theirs.params[key]]
        warm = {OURS[k]: x.clone() for k, x in state.items() if k in OURS}
        slots[key] = cold._replace(**warm)
    memory = Memory(slots, torch.tensor(7))
    params = {k: p.detach().clone() for k, p in theirs.params.items()}
    for t, g in enumerate(grads[7:], start=7):
        params, memory = rule.update(g, memory, params, torch.tensor(t))
        theirs.step(g)
        assert_equal(params, theirs.params)


@every_form
@essential_case
def test_constants_of_every_form_equal_the_number(name, form):
    case, start = CASES[name], random_tensors(0)
    constants = formed(case, form, lambda base, *shape: torch.full(shape, base))
    rule = case.make(**constants, **case.flags)
    plain = case.make(**case.settings, **case.flags)
    ours, theirs = (final(each, start, gradients(8)) for each in (rule, plain))
    assert_equal(ours, theirs, rtol=1e-13)


@every_form
@essential_case
def test_a_step_keeps_shapes_and_dtypes(name, form):
    # Float64 settings of every form around float32 weights, one of shape ().
    case = CASES[name]
    start = {k: w.float() for k, w in random_tensors(0).items()}
    if not form.startswith("elements"):
        start["layer.scale"] = torch.ones((), dtype=torch.float32)
    settings = formed(case, form, lambda base, *shape: torch.full(shape, base))
    rule = case.make(**settings, **case.flags)
    before = (start, rule.init(start))
    after = rule.update(start, before[1], start, torch.tensor(0))
    for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)


@essential_case
def test_float64_weights_need_no_float64_default(name):
    case, start, grads = CASES[name], random_tensors(0), gradients(8)
    truth = final(case.make(**case.settings, **case.flags), start, grads)
    torch.set_default_dtype(torch.float32)
    ours = final(case.make(**case.settings, **case.flags), start, grads)
    assert_equal(ours, truth, rtol=1e-14)


@essential_case
def test_vectorizes_over_settings_and_restarts(name):
    case, grads = CASES[name], gradients(5)
    starts = [random_tensors(0), random_tensors(1)]
    choices = [as_tensors(case.settings)]
    choices.append({key: 0.9 * value for key, value in choices[0].items()})

    def trained(settings: Hparams, start: Tensors) -> Tensors:
        return final(case.make(**settings, **case.flags), start, grads)

    def stack(trees: list[Tensors]) -> Tensors:
        return {key: torch.stack([tree[key] for tree in trees]) for key in trees[0]}

    together = vmap(trained)(stack(choices), stack(starts))
    alone = map(trained, choices, starts)
    assert_equal(together, stack(list(alone)))


@essential_case
def test_compiles_to_one_graph_without_breaks(name):
    case, start, grads = CASES[name], random_tensors(0), gradients(3)
    settings = formed(case, "steps", lambda base, *shape: torch.full(shape, base))
    torch._dynamo.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    @torch.compile(fullgraph=True, backend=backend)
    def update(settings: dict[str, Any], *state: Any) -> Any:
        return case.make(**settings, **case.flags).update(*state)

    params, memory = start, case.make(**settings, **case.flags).init(start)
    for t, g in enumerate(grads):
        params, memory = update(settings, g, memory, params, torch.tensor(t))
    assert len(graphs) == 1
    truth = final(case.make(**settings, **case.flags), start, grads)
    assert_equal(params, truth, rtol=1e-13)


@essential_case
def test_a_parameter_without_a_setting_is_named(name):
    case = CASES[name]
    rule = case.make(**{**case.settings, "lr": {"other": 0.1}}, **case.flags)
    with pytest.raises(ValueError, match=r"'layer.weight'.*got \['other'\]"):
        rule.init(random_tensors(0))


@essential_case
def test_numbers_out_of_range_are_refused(name):
    case = CASES[name]
    for setting in case.settings:
        for bad in (-0.1, {"layer": -0.1, "head": 0.1}):
            if setting == "max_norm" and isinstance(bad, dict):
                continue
            with pytest.raises(ValueError, match=rf"needs {setting} .*but got -0.1"):
                case.make(**{**case.settings, setting: bad}, **case.flags)
    for fraction in case.settings.keys() & {"beta1", "beta2", "alpha", "rho"}:
        with pytest.raises(ValueError, match=rf"{fraction} in \[0.0, 1.0\), .*got 1.0"):
            case.make(**{**case.settings, fraction: 1.0}, **case.flags)


#: How torch.optim computes, not what: no business of a pure function.
IMPLEMENTATION = {"params", "foreach", "capturable", "differentiable", "fused"}
IN_TORCH = ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta"]


@pytest.mark.parametrize("name", IN_TORCH)
def test_has_every_argument_of_torch_and_its_default(name):
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    ours = inspect.signature(getattr(optim, name.lower())).parameters
    assert theirs.keys() - ours.keys() == IMPLEMENTATION & theirs.keys()
    assert not ours.keys() - theirs.keys()
    for key, parameter in ours.items():
        if parameter.default is not inspect.Parameter.empty:
            assert parameter.default == theirs[key].default


def test_every_rule_has_a_case():
    helpers = {
        "export_schedule",
        "first_order",
        "from_torch",
        "load_schedule",
        "replay_with_torch",
        "tensorwise",
    }
    rules = {name for name in optim.__all__ if name.islower()} - helpers
    assert rules == {name.partition("-")[0].partition(".")[0] for name in CASES}


def test_the_cases_meet_both_branches():
    def head(name: str) -> torch.Tensor:
        case = CASES[name]
        rule = case.make(**case.settings, **case.flags)
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
