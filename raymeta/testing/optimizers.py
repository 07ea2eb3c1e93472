"""Conformance suites of inner optimizers."""

import math
from collections.abc import Callable, Mapping, Set
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from raymeta._tree import tree_leaves
from raymeta.hypergrad import Forward, Reverse, hypergradient
from raymeta.optim import Optimizer, Schedule, Setting
from raymeta.problem import descent
from raymeta.testing.precision import DoublePrecision
from raymeta.testing.problems import SHAPES, curved_layers, random_tensors
from raymeta.testing.truth import largest_relative_error, vectorized_differences
from raymeta.types import Hparams, Tensors

Make = Callable[..., Optimizer]
Settings = Mapping[str, float]

#: The ways to give one value per something: form -> its pieces' shapes.
FORMS: dict[str, Callable[[Callable[..., Tensor]], Setting]] = {
    "layers": lambda value: {"layer": value(), "head": value()},
    "steps": lambda value: value(6),
    "elements": lambda value: {k: value(*shape) for k, shape in SHAPES.items()},
    "elements-steps": lambda value: {
        k: Schedule(value(6, *shape)) for k, shape in SHAPES.items()
    },
}
every_form = pytest.mark.parametrize("form", FORMS)
FRACTIONS = {"beta1", "beta2", "alpha", "rho"}


class OptimizerConformance(DoublePrecision):
    """What every update rule must do, whatever is learned of its settings.

        class TestMyRule(OptimizerConformance):
            @pytest.fixture
            def make(self):
                return my_rule

            @pytest.fixture
            def settings(self):
                return {"lr": 0.1, "momentum": 0.8}

    Fixtures:
        make: (**settings) -> the rule; it has an `lr`.
        settings: all of its numbers, none at its default.
        joint: settings that have one value for all parameters.
        singular_at_zero: settings whose derivative at 0 is infinite or has two sides.
    """

    @pytest.fixture
    def make(self) -> Make:
        raise NotImplementedError

    @pytest.fixture
    def settings(self) -> Settings:
        raise NotImplementedError

    @pytest.fixture
    def joint(self) -> Set[str]:
        return frozenset()

    @pytest.fixture
    def singular_at_zero(self) -> Set[str]:
        return frozenset()

    def test_every_setting_has_its_true_hypergradient(
        self, make: Make, settings: Settings
    ) -> None:
        problem, hparams = curved_layers(lambda h: make(**h)), as_tensors(settings)
        truth = vectorized_differences(problem, hparams, 20, 1e-5)
        for way in (Reverse(20), Forward(20)):
            grads = hypergradient(problem, hparams, way).grads
            assert largest_relative_error(grads, truth) < 1e-6

    def test_true_derivative_of_a_setting_at_zero(
        self, make: Make, settings: Settings, singular_at_zero: Set[str]
    ) -> None:
        for setting in settings.keys() - singular_at_zero:
            problem = curved_layers(lambda h: make(**{**settings, **h}))
            hparams = {setting: torch.tensor(0.0)}
            grads = hypergradient(problem, hparams, Reverse(4)).grads
            truths = [
                vectorized_differences(problem, hparams, 4, step)
                for step in (1e-4, 1e-5)  # against rounding, against curvature
            ]
            errors = [largest_relative_error(grads, truth) for truth in truths]
            assert min(errors) < 1e-6, setting

    @every_form
    def test_settings_of_every_form_are_differentiable(
        self, make: Make, settings: Settings, joint: Set[str], form: str
    ) -> None:
        def optimizer(h: Hparams) -> Optimizer:
            def value(base: float, *shape: int) -> Tensor:
                # Each element starts elsewhere and moves with c in its own directions.
                size = math.prod(shape)
                angles = 20 * base + 1.7 * torch.arange(3.0 * size).reshape(3, *shape)
                u, v, w = (1 + torch.sin(angles)) / 2
                return base * (1 - 0.2 * u + h["c"][0] * v - h["c"][1] * w)

            return make(**formed(settings, form, value, joint))

        problem, hparams = curved_layers(optimizer), {"c": torch.zeros(2)}
        truth = vectorized_differences(problem, hparams, 8, 1e-2)
        grads = hypergradient(problem, hparams, Reverse(8)).grads
        assert largest_relative_error(grads, truth) < 1e-6

    def test_no_nan_at_zero_gradients(self, make: Make, settings: Settings) -> None:
        def outer_loss(params: Tensors, hparams: Hparams) -> Tensor:
            return torch.stack([w.square().sum() for w in params.values()]).sum()

        problem = descent(
            init_params=lambda hparams: random_tensors(0) | {"zero": torch.zeros(2)},
            inner_loss=lambda params, hparams, batch: params["zero"].square().sum(),
            outer_loss=outer_loss,
            optimizer=lambda h: make(**h),
        )
        decays = (0.0, 0.1) if "weight_decay" in settings else (None,)
        for decay in decays:
            own = {} if decay is None else {"weight_decay": decay}
            for estimator in (Reverse(3), Forward(3)):
                at = as_tensors({**settings, **own})
                result = hypergradient(problem, at, estimator)
                values = [result.outer_loss, *result.grads.values()]
                assert all(bool(torch.isfinite(value)) for value in values)

    @every_form
    def test_constants_of_every_form_equal_the_number(
        self, make: Make, settings: Settings, joint: Set[str], form: str
    ) -> None:
        start = random_tensors(0)
        constants = formed(settings, form, _constant, joint)
        ours, theirs = (
            final(rule, start, gradients(8))
            for rule in (make(**constants), make(**settings))
        )
        assert_equal(ours, theirs, rtol=1e-13)

    @every_form
    def test_a_step_keeps_shapes_and_dtypes(
        self, make: Make, settings: Settings, joint: Set[str], form: str
    ) -> None:
        # Float64 settings of every form around float32 weights, one of shape ().
        start = {k: w.float() for k, w in random_tensors(0).items()}
        if not form.startswith("elements"):
            start["layer.scale"] = torch.ones((), dtype=torch.float32)
        rule = make(**formed(settings, form, _constant, joint))
        before = (start, rule.init(start))
        after = rule.update(start, before[1], start, torch.tensor(0))
        for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
            assert (new.shape, new.dtype) == (old.shape, old.dtype)

    def test_float64_weights_need_no_float64_default(
        self, make: Make, settings: Settings
    ) -> None:
        start, grads = random_tensors(0), gradients(8)
        truth = final(make(**settings), start, grads)
        torch.set_default_dtype(torch.float32)
        ours = final(make(**settings), start, grads)
        assert_equal(ours, truth, rtol=1e-14)

    def test_vectorizes_over_settings_and_restarts(
        self, make: Make, settings: Settings
    ) -> None:
        grads = gradients(5)
        starts = [random_tensors(0), random_tensors(1)]
        choices = [as_tensors(settings)]
        choices.append({key: 0.9 * value for key, value in choices[0].items()})

        def trained(settings: Hparams, start: Tensors) -> Tensors:
            return final(make(**settings), start, grads)

        def stack(trees: list[Tensors]) -> Tensors:
            return {key: torch.stack([tree[key] for tree in trees]) for key in trees[0]}

        together = vmap(trained)(stack(choices), stack(starts))
        alone = map(trained, choices, starts)
        assert_equal(together, stack(list(alone)))

    def test_compiles_to_one_graph_without_breaks(
        self, make: Make, settings: Settings, joint: Set[str]
    ) -> None:
        start, grads = random_tensors(0), gradients(3)
        schedules = formed(settings, "steps", _constant, joint)
        torch.compiler.reset()
        graphs = []

        def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
            graphs.append(graph)
            return graph.forward

        @torch.compile(fullgraph=True, backend=backend)
        def update(settings: dict[str, Any], *state: Any) -> Any:
            return make(**settings).update(*state)

        params, memory = start, make(**schedules).init(start)
        for t, g in enumerate(grads):
            params, memory = update(schedules, g, memory, params, torch.tensor(t))
        assert len(graphs) == 1
        truth = final(make(**schedules), start, grads)
        assert_equal(params, truth, rtol=1e-13)

    def test_a_parameter_without_a_setting_is_named(
        self, make: Make, settings: Settings
    ) -> None:
        rule = make(**{**settings, "lr": {"other": 0.1}})
        with pytest.raises(ValueError, match=r"'layer.weight'.*got \['other'\]"):
            rule.init(random_tensors(0))

    def test_numbers_out_of_range_are_refused(
        self, make: Make, settings: Settings, joint: Set[str]
    ) -> None:
        for name in settings:
            each = {"layer": -0.1, "head": 0.1}
            for bad in (-0.1,) if name in joint else (-0.1, each):
                with pytest.raises(ValueError, match=rf"needs {name} .*but got -0.1"):
                    make(**{**settings, name: bad})
        for name in settings.keys() & FRACTIONS:
            with pytest.raises(ValueError, match=rf"{name} in \[0.0, 1.0\), .*got 1.0"):
                make(**{**settings, name: 1.0})


class TorchOptimizerConformance(DoublePrecision):
    """What a rule must do that an optimizer of torch has, too.

    Fixtures:
        make: as for `OptimizerConformance`, and so `settings`.
        reference: (parameters, **settings) -> torch's own.
    """

    @pytest.fixture
    def make(self) -> Make:
        raise NotImplementedError

    @pytest.fixture
    def settings(self) -> Settings:
        raise NotImplementedError

    @pytest.fixture
    def reference(self) -> Callable[..., Any]:
        raise NotImplementedError

    @pytest.mark.parametrize("plain", [True, False], ids=["numbers", "tensors"])
    def test_follows_torch_optim_step_by_step(
        self, make: Make, settings: Settings, reference: Any, plain: bool
    ) -> None:
        start = random_tensors(0)
        rule = make(**(settings if plain else as_tensors(settings)))
        params, memory = start, rule.init(start)
        theirs = {k: torch.nn.Parameter(w.clone()) for k, w in start.items()}
        optimizer = reference(theirs.values(), **settings)
        for t, grads in enumerate(gradients(12)):
            params, memory = rule.update(grads, memory, params, torch.tensor(t))
            torch_step(optimizer, theirs, grads)
            assert_equal(params, theirs)


def torch_step(optimizer: Any, params: Mapping[str, Tensor], grads: Tensors) -> None:
    """A step of an optimizer of torch by these gradients."""
    for name, p in params.items():
        p.grad = grads[name].clone()
    optimizer.step()


def formed(
    settings: Settings,
    form: str,
    value: Callable[..., Tensor],
    joint: Set[str] = frozenset(),
) -> dict[str, Any]:
    """All settings in a form of `FORMS`.

    Args:
        settings: values by name.
        form: its name; a setting in `joint` is a schedule instead.
        value: (setting, *shape) -> a tensor.
        joint: names of settings that have one value for all parameters.
    """

    def setting(name: str) -> Setting:
        own = "steps" if name in joint else form
        return FORMS[own](lambda *shape: value(settings[name], *shape))

    return {name: setting(name) for name in settings}


def _constant(base: float, *shape: int) -> Tensor:
    return torch.full(shape, base)


def as_tensors(settings: Settings) -> Hparams:
    """Settings as a λ."""
    return {name: torch.tensor(value) for name, value in settings.items()}


def gradients(steps: int) -> list[Tensors]:
    """Small and large ones, so that clipping acts at some steps only."""
    scales = (0.1, 0.02, 1.0)
    return [random_tensors(100 + t, scales[t % 3]) for t in range(steps)]


def final(rule: Optimizer, params: Tensors, grads: list[Tensors]) -> Tensors:
    """The weights after steps by these gradients."""
    memory = rule.init(params)
    for t, g in enumerate(grads):
        params, memory = rule.update(g, memory, params, torch.tensor(t))
    return params


def assert_equal(ours: Tensors, theirs: Any, rtol: float = 1e-12) -> None:
    """Fail unless tensors are equal but for rounding."""
    for name, p in theirs.items():
        torch.testing.assert_close(ours[name], p.detach(), rtol=rtol, atol=1e-13)
