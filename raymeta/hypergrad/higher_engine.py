"""Training by `higher`, the other engine of `Reverse`.

Grefenstette et al. 2019, "Generalized inner loop meta-learning". Where its derivatives
are wrong, as `_TWINS` lists, the run is refused before the first step.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raymeta._tree import detach
from raymeta.autograd.stop_gradient import inner_gradient
from raymeta.optim import Memory, Schedule, Setting
from raymeta.optim.base import Recipe
from raymeta.optim.settings import is_zero
from raymeta.problem import BilevelProblem, Descent, TrainState
from raymeta.types import Batch, Hparams, Tensors


class _Twin(NamedTuple):
    """What `higher` makes of an optimizer of `torch.optim`, and where it goes wrong.

    What is not listed here has its true derivative.

    Attributes:
        kept: what it keeps for a parameter: its name -> ours, in the memory's slots.
        group: (settings, k) -> what its parameter group is told at step k = 1, 2, ….
        flags: flag -> why it is refused.
        constant: setting -> why it must not be learned.
        single: settings that must be the same number for all elements of a parameter.
        positive: settings that must not be 0, but by the plain number.
    """

    kept: Mapping[str, str]
    group: Callable[[dict[str, Any], int], dict[str, Any]] = lambda given, k: given
    flags: Mapping[str, str] = {"maximize": "ignores it"}
    constant: Mapping[str, str] = {}
    single: tuple[str, ...] = ("weight_decay", "momentum")
    positive: tuple[str, ...] = ("weight_decay", "momentum")


def _sgd_group(given: dict[str, Any], k: int) -> dict[str, Any]:
    """Its velocity starts as the first gradient, undamped; here it goes on from 0."""
    return {**given, "dampening": given["dampening"] * (k > 1)}


def _adam_group(given: dict[str, Any], k: int) -> dict[str, Any]:
    """It adds ε to √v before the bias correction of v, `torch.optim` after it."""
    beta1, beta2 = given["beta1"], given["beta2"]
    eps = given["eps"] * (1 - beta2**k) ** 0.5
    known = {key: x for key, x in given.items() if key != "eps_root"}
    return {**known, "betas": (beta1, beta2), "eps": eps}


_TWINS = {
    "SGD": _Twin({"momentum_buffer": "velocity"}, _sgd_group),
    "Adam": _Twin(
        {"exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "v_max"},
        _adam_group,
        flags={"maximize": "ignores it", "decoupled_weight_decay": "ignores it"},
        constant={"beta2": "cuts the root of its bias correction from the graph"},
        single=("weight_decay", "beta2"),
    ),
    "RMSprop": _Twin(
        {"square_avg": "v", "momentum_buffer": "velocity"},
        flags={
            "maximize": "ignores it",
            "centered": "gives NaN where a gradient is 0",
        },
    ),
    "Adagrad": _Twin(
        {"sum": "total"}, positive=("weight_decay", "initial_accumulator_value")
    ),
    "Adadelta": _Twin({"square_avg": "v", "acc_delta": "u"}),
}


class _InnerLoss(nn.Module):
    """The inner loss as a module; `higher` puts other tensors for its parameters."""

    def __init__(self, step: Descent, params: Tensors, hparams: Hparams) -> None:
        super().__init__()
        self.inner_loss, self.names, self.hparams = step.inner_loss, [*params], hparams
        # Only places: no nn.Parameter can be s_0(λ), which is in λ's graph.
        for i in range(len(params)):
            self.register_parameter(f"place_{i}", nn.Parameter(torch.empty(0)))

    def forward(self, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """The loss, shape (), and the new buffers."""
        params: Tensors = dict(zip(self.names, self.parameters(), strict=True))
        loss, buffers = self.inner_loss(params, buffers, self.hparams, batch)
        if not loss.requires_grad:  # a loss that no parameter enters
            loss = loss + 0.0 * next(iter(params.values())).sum()
        return loss, buffers


def unroll_with_higher(
    problem: BilevelProblem,
    hparams: Hparams,
    state: TrainState,
    steps: int,
    track: bool = True,
) -> TrainState:
    """s_T from s_0, like `unroll`, where `higher`'s optimizers take the steps.

    Args:
        problem: what is trained.
        hparams: λ.
        state: s_0.
        steps: T.
        track: whether s_T is in λ's graph (`higher`'s `track_higher_grads`).

    Raises:
        ValueError: it cannot take them, or not with their true derivatives.
    """
    step, recipe = require_truth(problem, hparams, state)
    kept_as, names = _TWINS[recipe.name].kept, list(state.params)
    module = _InnerLoss(step, state.params, hparams)
    model, rule = _patch(module, recipe, state.params, track)
    slots, taken = state.memory.slots, int(state.memory.step)
    for name, kept in zip(names, rule.state, strict=True):
        mine = {theirs: getattr(slots[name], ours) for theirs, ours in kept_as.items()}
        kept[0] = {key: x for key, x in mine.items() if isinstance(x, Tensor)}
        kept[0]["step"] = taken

    def materialize(grads: list[Tensor | None]) -> list[Tensor]:
        # Without a gradient it would leave a parameter alone, which may have to decay.
        both = zip(grads, model.parameters(), strict=True)
        full = [torch.zeros_like(p) if g is None else g for g, p in both]
        return detach(full) if recipe.first_order else full

    buffers = state.buffers
    for i in range(steps):
        batch = problem.batch(i)
        with inner_gradient() as inner:
            loss, buffers = model(buffers, batch)
        groups = _groups(recipe, state.params, batch.index, taken + i + 1)
        # Without a graph neither memory nor buffers may hold on to what came before.
        tracked = torch.set_grad_enabled(track and torch.is_grad_enabled())
        with tracked, inner.being_taken():
            rule.step(loss, override=groups, grad_callback=materialize)
        buffers = buffers if track else detach(buffers)
    params = dict(zip(names, model.parameters(), strict=True))
    after = {}
    for name, kept in zip(names, rule.state, strict=True):
        pairs = ((ours, kept[0].get(theirs)) for theirs, ours in kept_as.items())
        after[name] = slots[name]._replace(**{k: x for k, x in pairs if x is not None})
    return TrainState(params, Memory(after, state.memory.step + steps), buffers)


def _patch(
    module: nn.Module, recipe: Recipe, params: Tensors, track: bool
) -> tuple[Any, Any]:
    """The inner loss at these weights, and the optimizer that moves them."""
    with warnings.catch_warnings():
        # Python warns of its source where it compiles it, at the very first import.
        warnings.simplefilter("ignore")
        import higher
    # A group each, since each may have settings of its own.
    groups = [{"params": [place]} for place in module.parameters()]
    optimizer = getattr(torch.optim, recipe.name)(groups)
    flags = {flag: [True] for flag in recipe.flags}
    with warnings.catch_warnings():
        # It doubts its derivatives, but those that are not refused are right.
        warnings.filterwarnings("ignore", "Differentiable RMSprop suffers", UserWarning)
        with higher.innerloop_ctx(
            module,
            optimizer,
            copy_initial_weights=False,
            override=flags,
            track_higher_grads=track,
        ) as (model, rule):
            pass
    # Views, for the reason that `Descent.gradient` gives.
    start = [
        p.view_as(p) if p.requires_grad else p.detach().requires_grad_()
        for p in params.values()
    ]
    model.update_params(start)
    return model, rule


def _groups(recipe: Recipe, params: Tensors, t: Tensor, k: int) -> dict[str, list[Any]]:
    """The settings at step t, the k-th of all: name -> one for each parameter."""
    at, group = recipe.settings.at(t), _TWINS[recipe.name].group
    each = []
    for name, w in params.items():
        own = at(name)
        given = {key: _fit(getattr(own, key), w) for key in recipe.settings.given}
        each.append(group(given, k))
    return {key: [settings[key] for settings in each] for key in each[0]}


def _fit(value: float | Tensor, w: Tensor) -> float | Tensor:
    """Float64 settings must not widen float32 weights."""
    if isinstance(value, Tensor) and (value.ndim > 0 or w.ndim == 0):
        return value.to(w.dtype)
    return value


def require_truth(
    problem: BilevelProblem, hparams: Hparams, state: TrainState
) -> tuple[Descent, Recipe]:
    """The step and its optimizer, of which `higher` makes no mistake.

    Raises:
        ValueError: it has no such optimizer, or one with wrong derivatives.
    """
    step = problem.step
    if type(step) is not Descent:
        raise _refusal(
            "a problem whose step is a `Descent`, as of descent() and module_problem()",
            f"has no place for {step}",
        )
    optimizer = step.rule(hparams)
    recipe = optimizer.recipe
    own = recipe is not None and recipe.update is optimizer.update
    if recipe is None or not own or recipe.name not in _TWINS:
        raise _refusal(
            "sgd, adam, rmsprop, adagrad or adadelta, without clipping around it",
            "has no other optimizer",
        )
    name, twin = recipe.name, _TWINS[recipe.name]
    for flag in recipe.flags:
        if flag in twin.flags:
            raise _refusal(f"{flag}=False in {name}", twin.flags[flag])
    if any(w.is_complex() for w in state.params.values()):
        raise _refusal("real weights", "squares complex gradients")
    at = recipe.settings.at(state.memory.step)
    for key, setting in recipe.settings.given.items():
        tensors = _tensors(setting)
        if key == "eps_root" and not is_zero(setting):
            raise _refusal(f"eps_root=0 in {name}", "has none")
        if key in twin.constant and any(x.requires_grad for x in tensors):
            raise _refusal(f"a constant {key} in {name}", twin.constant[key])
        if key in twin.positive and not all(bool((x > 0).all()) for x in tensors):
            raise _refusal(
                f"{key} > 0 in {name} wherever it is a tensor",
                "drops the derivative of what is exactly 0",
            )
        for parameter in state.params if key in twin.single else ():
            value = getattr(at(parameter), key)
            if isinstance(value, Tensor) and value.numel() > 1:
                raise _refusal(
                    f"one {key} in {name} for all elements of {parameter!r}",
                    f"takes it for one number, not for {tuple(value.shape)}",
                )
    return step, recipe


def _tensors(setting: Setting) -> list[Tensor]:
    """Those among the values of a setting, over all parameters and steps."""
    each = setting.values() if isinstance(setting, Mapping) else [setting]
    values = [x.values if isinstance(x, Schedule) else x for x in each]
    return [x for x in values if isinstance(x, Tensor)]


def _refusal(rule: str, fault: str) -> ValueError:
    return ValueError(
        f"engine='higher' needs {rule}, as higher {fault}: use engine='functional'"
    )
