"""What every inner optimizer must satisfy; a new one is one line in CASES."""

import inspect
import math
from collections.abc import Callable
from itertools import chain, combinations
from typing import Any, NamedTuple

import pytest
import torch
from torch.func import vmap

from raymeta import optim
from raymeta.hypergrad import Forward, Reverse, hypergradient
from raymeta.hypergrad.base import unroll
from raymeta.optim import Memory, Optimizer, Schedule, Setting
from raymeta.problem import BilevelProblem, descent
from raymeta.tree import tree_leaves
from raymeta.types import Batch, Hparams, Tensors
from tests.truth import largest_relative_error

pytestmark = pytest.mark.usefixtures("float64")

SHAPES = {"layer.weight": (2, 3), "layer.bias": (2,), "head": (2,)}


class Case(NamedTuple):
    """An optimizer with non-default settings, and torch's own with the same.

    Attributes:
        make: (**settings, **flags) -> the optimizer.
        settings: all of its numbers, none at its default.
        flags: whatever is not a number.
        reference: (params, **settings, **flags) -> the same in torch.
    """

    make: Callable[..., Optimizer]
    settings: dict[str, float]
    flags: dict[str, bool]
    reference: Callable[..., Any]


class TorchLion(torch.optim.Optimizer):
    """Chen et al. 2023, Algorithm 2, line by line; torch.optim has none."""

    def __init__(self, params: Any, maximize: bool = False, **defaults: Any) -> None:
        super().__init__(params, {"maximize": maximize, **defaults})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for theta in group["params"]:
                m = self.state[theta].setdefault("exp_avg", torch.zeros_like(theta))
                g = -theta.grad if group["maximize"] else theta.grad
                c = beta1 * m + (1 - beta1) * g
                theta -= group["lr"] * (c.sign() + group["weight_decay"] * theta)
                m.copy_(beta2 * m + (1 - beta2) * g)


class Clipped:
    """A torch optimizer whose step is preceded by clipping."""

    def __init__(self, inner: torch.optim.Optimizer, clip: Any, bound: float) -> None:
        self._inner, self._clip, self._bound = inner, clip, bound
        self.state, self.param_groups = inner.state, inner.param_groups

    def step(self) -> None:
        self._clip([p for g in self.param_groups for p in g["params"]], self._bound)
        self._inner.step()


def with_betas(make: Callable[..., Any]) -> Callable[..., Any]:
    """The same with `beta1` and `beta2` for `betas`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if "beta1" in kwargs:
            kwargs["betas"] = kwargs.pop("beta1"), kwargs.pop("beta2")
        return make(*args, **kwargs)

    return call


def family(
    name: str, reference: Callable[..., Any], settings: dict[str, float], *flags: str
) -> dict[str, Case]:
    """One case for every combination of flags; the name up to a dot is ours."""
    make = with_betas(getattr(optim, name.partition(".")[0]))
    sets = chain.from_iterable(combinations(flags, n) for n in range(len(flags) + 1))
    return {
        "-".join((name, *chosen)): Case(
            make, settings, dict.fromkeys(chosen, True), with_betas(reference)
        )
        for chosen in sets
    }


def clipped(wrapper: Any, bound: str, clip: Any, inner: Case, value: float) -> Case:
    def make(**kwargs: Any) -> Optimizer:
        theta = kwargs.pop(bound)
        return wrapper(inner.make(**kwargs), theta)

    def reference(params: Any, **kwargs: Any) -> Clipped:
        theta = kwargs.pop(bound)
        return Clipped(inner.reference(params, **kwargs), clip, theta)

    return Case(make, {**inner.settings, bound: value}, inner.flags, reference)


DECOUPLED = "decoupled_weight_decay"
_SGD = {"lr": 0.2, "momentum": 0.8, "weight_decay": 0.03}
_ADAM = {"lr": 0.05, "beta1": 0.8, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.02}
_RADAM = _ADAM | {"beta2": 0.87}
_NADAM = _ADAM | {"momentum_decay": 0.3}
_LION = {name: _ADAM[name] for name in ("lr", "beta1", "beta2", "weight_decay")}
_RMSPROP = {"lr": 0.03, "alpha": 0.9, "eps": 1e-2, "weight_decay": 0.02}
_ADAGRAD = {"lr": 0.1, "lr_decay": 0.05, "weight_decay": 0.02, "eps": 1e-3}
_ADAGRAD |= {"initial_accumulator_value": 0.1}
_ADADELTA = {"lr": 1.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.02}
CASES = {
    **family("sgd", torch.optim.SGD, _SGD | {"dampening": 0.3}, "maximize"),
    **family("sgd.undamped", torch.optim.SGD, _SGD, "nesterov", "maximize"),
    **family("sgd.plain", torch.optim.SGD, {"lr": 0.2, "weight_decay": 0.03}),
    **family("adam", torch.optim.Adam, _ADAM, "amsgrad", DECOUPLED, "maximize"),
    **family("adamw", torch.optim.AdamW, _ADAM, "amsgrad", "maximize"),
    **family("nadam", torch.optim.NAdam, _NADAM, DECOUPLED, "maximize"),
    **family("radam", torch.optim.RAdam, _RADAM, DECOUPLED, "maximize"),
    **family("rmsprop", torch.optim.RMSprop, _RMSPROP, "centered", "maximize"),
    **family(
        "rmsprop.heavy",
        torch.optim.RMSprop,
        _RMSPROP | {"momentum": 0.7},
        "centered",
        "maximize",
    ),
    **family("adagrad", torch.optim.Adagrad, _ADAGRAD, "maximize"),
    **family("adadelta", torch.optim.Adadelta, _ADADELTA, "maximize"),
    **family("lion", TorchLion, _LION, "maximize"),
}
_BY_NORM = (optim.clip_by_norm, "max_norm", torch.nn.utils.clip_grad_norm_)
_BY_VALUE = (optim.clip_by_value, "value", torch.nn.utils.clip_grad_value_)
CASES |= {
    "clip_by_norm-sgd": clipped(*_BY_NORM, CASES["sgd"], 0.3),
    "clip_by_norm-adam": clipped(*_BY_NORM, CASES["adam"], 0.3),
    "clip_by_value-sgd": clipped(*_BY_VALUE, CASES["sgd"], 0.15),
    "clip_by_value-adamw": clipped(*_BY_VALUE, CASES["adamw"], 0.15),
}
#: Settings whose derivative at 0 is infinite or has two sides.
SINGULAR_AT_ZERO = {
    "adadelta": {"eps"},
    "rmsprop-centered": {"alpha"},
    "rmsprop.heavy-centered": {"alpha"},
    "clip_by_value-sgd": {"value"},
    "clip_by_value-adamw": {"value"},
}
every_case = pytest.mark.parametrize("name", CASES)
#: Without the mirror images of other cases.
ESSENTIAL = [name for name in CASES if "maximize" not in name]
essential_case = pytest.mark.parametrize("name", ESSENTIAL)


def toy(optimizer: Callable[[Hparams], Optimizer]) -> BilevelProblem:
    """Two curved layers of ten weights, with other data at each of four steps."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(5, 4, 3, generator=generator)
    y = torch.randn(5, 4, generator=generator)

    def loss(params: Tensors, data: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        hidden = torch.tanh(data[0] @ params["layer.weight"].T + params["layer.bias"])
        return torch.log1p((hidden @ params["head"] - data[1]).square()).mean()

    start = random_tensors(7)
    return descent(
        init_params=lambda hparams: start,
        inner_loss=lambda params, hparams, batch: loss(params, batch.data),
        outer_loss=lambda params, hparams: loss(params, (x[4], y[4])),
        optimizer=optimizer,
        batch=lambda t: Batch(torch.tensor(t), (x[t % 4], y[t % 4])),
    )


def random_tensors(seed: int, scale: float = 1.0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(shape, generator=generator)
        for name, shape in SHAPES.items()
    }


def as_tensors(settings: dict[str, float]) -> Hparams:
    return {name: torch.tensor(value) for name, value in settings.items()}


def gradients(steps: int) -> list[Tensors]:
    """Small and large ones, so that clipping acts at some steps only."""
    scales = (0.1, 0.02, 1.0)
    return [random_tensors(100 + t, scales[t % 3]) for t in range(steps)]


def final(rule: Optimizer, params: Tensors, grads: list[Tensors]) -> Tensors:
    memory = rule.init(params)
    for t, g in enumerate(grads):
        params, memory = rule.update(g, memory, params, torch.tensor(t))
    return params


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


def assert_equal(ours: Tensors, theirs: Any, rtol: float = 1e-12) -> None:
    for name, p in theirs.items():
        torch.testing.assert_close(ours[name], p.detach(), rtol=rtol, atol=1e-13)


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


def differences(
    problem: BilevelProblem, hparams: Hparams, steps: int, step: float
) -> Tensors:
    """What `run_differences` gives, with all its runs in one vectorized pass."""
    sizes = {name: value.numel() for name, value in hparams.items()}
    x = torch.cat([value.flatten() for value in hparams.values()])
    h = step * x.abs().clamp(min=1e-2)
    shifts = torch.stack([factor * h.diag() for factor in (1, -1, 2, -2)])

    def outer_value(x: torch.Tensor) -> torch.Tensor:
        parts = dict(zip(sizes, x.split(list(sizes.values())), strict=True))
        moved = {k: part.reshape(hparams[k].shape) for k, part in parts.items()}
        return plain_run(problem, moved, steps)

    e = vmap(vmap(outer_value))(x + shifts)
    slopes = (4 * (e[0] - e[1]) / 2 - (e[2] - e[3]) / 4) / (3 * h)
    parts = zip(sizes, slopes.split(list(sizes.values())), strict=True)
    return {name: part.reshape(hparams[name].shape) for name, part in parts}


def plain_run(problem: BilevelProblem, hparams: Hparams, steps: int) -> torch.Tensor:
    state = unroll(problem, hparams, problem.init(hparams), 0, steps)
    return problem.outer_loss(state, hparams)


@every_case
@pytest.mark.parametrize("estimator", [Reverse(20), Forward(20)], ids=["rev", "fwd"])
def test_every_setting_has_its_true_hypergradient(name, estimator):
    case = CASES[name]
    problem = toy(lambda h: case.make(**h, **case.flags))
    hparams = as_tensors(case.settings)
    result = hypergradient(problem, hparams, estimator)
    truth = differences(problem, hparams, 20, 1e-5)
    assert largest_relative_error(result.grads, truth) < 1e-6


@essential_case
def test_true_derivative_of_a_setting_at_zero(name):
    case = CASES[name]
    for setting in case.settings.keys() - SINGULAR_AT_ZERO.get(name, set()):

        def optimizer(h: Hparams, setting: str = setting) -> Optimizer:
            return case.make(**{**case.settings, **h}, **case.flags)

        problem, hparams = toy(optimizer), {setting: torch.tensor(0.0)}
        result = hypergradient(problem, hparams, Reverse(4))
        errors = [
            largest_relative_error(result.grads, differences(problem, hparams, 4, h))
            for h in (1e-4, 1e-5)  # against rounding, against curvature
        ]
        assert min(errors) < 1e-6, setting


#: The ways to give one value per something: form -> its pieces' shapes.
FORMS: dict[str, Callable[[Callable[..., torch.Tensor]], Setting]] = {
    "layers": lambda value: {"layer": value(), "head": value()},
    "steps": lambda value: value(6),
    "elements": lambda value: {k: value(*shape) for k, shape in SHAPES.items()},
    "elements-steps": lambda value: {
        k: Schedule(value(6, *shape)) for k, shape in SHAPES.items()
    },
}
every_form = pytest.mark.parametrize("form", FORMS)


def formed(case: Case, form: str, value: Callable[..., torch.Tensor]) -> dict[str, Any]:
    """All settings in a form; `max_norm` has one value for all parameters."""

    def setting(name: str) -> Setting:
        own = form if form == "steps" or name != "max_norm" else "steps"
        return FORMS[own](lambda *shape: value(case.settings[name], *shape))

    return {name: setting(name) for name in case.settings}


@every_form
@essential_case
def test_settings_of_every_form_are_differentiable(name, form):
    case = CASES[name]

    def optimizer(h: Hparams) -> Optimizer:
        def value(base: float, *shape: int) -> torch.Tensor:
            # Each element starts elsewhere and moves with c in directions of its own.
            size = math.prod(shape)
            angles = 20 * base + 1.7 * torch.arange(3.0 * size).reshape(3, *shape)
            u, v, w = (1 + torch.sin(angles)) / 2
            return base * (1 - 0.2 * u + h["c"][0] * v - h["c"][1] * w)

        return case.make(**formed(case, form, value), **case.flags)

    problem, hparams = toy(optimizer), {"c": torch.zeros(2)}
    truth = differences(problem, hparams, 8, 1e-2)
    result = hypergradient(problem, hparams, Reverse(8))
    assert largest_relative_error(result.grads, truth) < 1e-6


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


@every_case
def test_no_nan_at_zero_gradients(name):
    case = CASES[name]

    def outer_loss(params: Tensors, hparams: Hparams) -> torch.Tensor:
        return sum(w.square().sum() for w in params.values())

    for weight_decay in (0.0, 0.1):
        hparams = as_tensors({**case.settings, "weight_decay": weight_decay})
        problem = descent(
            init_params=lambda hparams: random_tensors(0) | {"zero": torch.zeros(2)},
            inner_loss=lambda params, hparams, batch: params["zero"].square().sum(),
            outer_loss=outer_loss,
            optimizer=lambda h: case.make(**h, **case.flags),
        )
        for estimator in (Reverse(3), Forward(3)):
            result = hypergradient(problem, hparams, estimator)
            values = [result.outer_loss, *result.grads.values()]
            assert all(bool(torch.isfinite(value)) for value in values)


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
    helpers = {"export_schedule", "load_schedule", "replay_with_torch", "tensorwise"}
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


def test_radam_is_differentiable_on_both_sides_of_its_rectification():
    # ρ is 5 for k = 8 at a β2 near 0.83.
    def optimizer(h: Hparams) -> Optimizer:
        return optim.radam(0.1, betas=(0.9, h["beta2"]), eps=1e-3)

    problem = toy(optimizer)
    for beta2 in (0.0, 0.3, 1 / 3, 0.6, 0.7, 0.8, 0.9, 0.99, 0.999):
        hparams = {"beta2": torch.tensor(beta2)}
        truth = differences(problem, hparams, 8, 1e-6)
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
    problem = toy(lambda h: case.make(**h))
    result = hypergradient(problem, as_tensors(case.settings), Reverse(5))
    assert result.grads["beta1"] == result.grads["beta2"] == 0
    assert result.grads["lr"] != 0
    assert result.grads["weight_decay"] != 0


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
