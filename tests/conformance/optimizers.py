"""Every inner optimizer with non-default settings; a new one is one line in CASES."""

from collections.abc import Callable
from itertools import chain, combinations
from typing import Any, NamedTuple

import pytest
import torch
from torch.func import vmap

from raymeta import optim
from raymeta.hypergrad.base import unroll
from raymeta.optim import Optimizer, Schedule, Setting
from raymeta.problem import BilevelProblem, descent
from raymeta.types import Batch, Hparams, Tensors

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


def assert_equal(ours: Tensors, theirs: Any, rtol: float = 1e-12) -> None:
    for name, p in theirs.items():
        torch.testing.assert_close(ours[name], p.detach(), rtol=rtol, atol=1e-13)


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
