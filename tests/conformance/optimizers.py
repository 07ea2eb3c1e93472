"""Every inner optimizer with non-default settings; a new one is one line in CASES."""

from collections.abc import Callable
from functools import partial
from itertools import chain, combinations
from typing import Any, NamedTuple

import torch

from raymeta import optim
from raymeta.optim import Optimizer
from raymeta.optim.base import as_real


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

    @property
    def rule(self) -> Callable[..., Optimizer]:
        """(**settings) -> the optimizer."""
        return partial(self.make, **self.flags)


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


class RootedAdam(torch.optim.Optimizer):
    """Kingma & Ba 2015, Algorithm 1, with ε in the root as well; torch has none."""

    def __init__(self, params: Any, **defaults: Any) -> None:
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for theta in group["params"]:
                state, w, g = self.state[theta], as_real(theta), as_real(theta.grad)
                g = g + group["weight_decay"] * w
                m = beta1 * state.get("exp_avg", torch.zeros_like(w))
                v = beta2 * state.get("exp_avg_sq", torch.zeros_like(w))
                m, v = m + (1 - beta1) * g, v + (1 - beta2) * g**2
                k = state.get("step", 0) + 1
                state.update(exp_avg=m, exp_avg_sq=v, step=k)
                root = (v / (1 - beta2**k) + group["eps_root"]).sqrt()
                w -= group["lr"] * m / (1 - beta1**k) / (root + group["eps"])


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
    **family("adam.rooted", RootedAdam, _ADAM | {"eps_root": 1e-3}),
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
#: Without the mirror images of other cases.
ESSENTIAL = [name for name in CASES if "maximize" not in name]
#: Settings that have one value for all parameters.
JOINT = {"max_norm"}
