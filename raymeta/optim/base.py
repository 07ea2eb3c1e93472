"""Inner optimizers as (init, update) pairs, and rules for one tensor made such."""

# In this package, since torch.compile traces the nested functions with their
# annotations, and cannot subscript a type.
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from raymeta.errors import require_flags
from raymeta.optim.settings import At, Settings, is_zero
from raymeta.types import State, Tensors


class HeavyBall(NamedTuple):
    r"""How to read an update as one that can be undone.

    $$ v \leftarrow \mu v + f,\quad w \leftarrow w - \alpha v $$

    where α and μ depend on the step alone, and f on the step, w and the gradient, not
    on v: f is the velocity after an update from v = 0.

    Attributes:
        rates: t -> (parameter's name -> (α, μ)).
        memory: (velocity by parameter's name, t) -> memory before step t of a run.
        velocity: memory -> velocity by parameter's name.
    """

    rates: Callable[[Tensor], Callable[[str], tuple[float | Tensor, float | Tensor]]]
    memory: Callable[[Tensors, Tensor], State]
    velocity: Callable[[State], Tensors]


class Recipe(NamedTuple):
    """Which optimizer of `torch.optim` an update stands for.

    Attributes:
        name: its class, for example "SGD".
        settings: its numbers.
        flags: names of its other arguments that are True.
        update: the update that this describes; one around it (clipping) is another.
        first_order: whether gradients are cut from the graph (see `first_order`).
    """

    name: str
    settings: Settings
    flags: list[str]
    update: Callable[[Tensors, State, Tensors, Tensor], tuple[Tensors, State]]
    first_order: bool = False


class Optimizer(NamedTuple):
    """A differentiable update rule: a pair of pure functions.

    Attributes:
        init: params -> memory, the optimizer's state before the first step.
        update: (grads, memory, params, t) -> (params, memory); `t` is the step, an
            int64 tensor of shape (), by which schedules are looked up.
        heavy_ball: how `update` can be undone; None where it cannot.
        recipe: which optimizer of `torch.optim` it stands for; None where for none.
    """

    init: Callable[[Tensors], State]
    update: Callable[[Tensors, State, Tensors, Tensor], tuple[Tensors, State]]
    heavy_ball: HeavyBall | None = None
    recipe: Recipe | None = None


class Memory(NamedTuple):
    """What a rule of this package remembers between steps.

    Attributes:
        slots: parameter's name -> what the rule keeps for it, for example
            `AdamMemory(m, v, v_max)`; `()` stands for what it does not need.
        step: int64, shape (); how many steps were taken.
    """

    slots: dict[str, Any]
    step: Tensor


#: A tensor that a rule keeps only with some flag or setting; the empty tuple without.
Maybe = Tensor | tuple[()]
Slot = TypeVar("Slot", bound=tuple)


def tensorwise(
    start: Callable[[Tensor, At], Slot],
    step: Callable[[Tensor, Tensor, Slot, Tensor, At], tuple[Tensor, Slot]],
    settings: Settings,
    *,
    decoupled: bool = False,
    maximize: bool = False,
    stands_for: str | None = None,
    **flags: bool,
) -> Optimizer:
    r"""The optimizer that applies one rule to each parameter tensor.

    It looks the settings up, and does what comes first in every rule:

    $$ g \leftarrow -g \;\text{(maximize)},\qquad
       g \leftarrow g + \lambda w \quad\text{or}\quad
       w \leftarrow w - \alpha\lambda w \;\text{(decoupled)} $$

    Complex weights are pairs of real ones to it, as to `torch.optim`, and so is what is
    kept for them, of shape (*shape, 2).

    Args:
        start: (w, settings at step 0) -> what is kept for w before the first step.
        step: (w, g, kept, k, settings) -> (w, kept); k = 1, 2, … counts the steps
            taken, float64 of shape (), so that 1 - β^k is exact for float32 weights.
        settings: numbers by name, `lr` α and `weight_decay` λ among them.
        decoupled: weight decay acts on the weights rather than on the gradient.
        maximize: ascend.
        stands_for: the class of `torch.optim` whose steps these are, if any.
        **flags: the arguments of that class which are not numbers.

    Raises:
        ValueError: a flag is neither True nor False.
    """
    flags |= {"maximize": maximize, "decoupled_weight_decay": decoupled}
    require_flags(settings.optimizer, **flags)

    def init(params: Tensors) -> Memory:
        some = next(iter(params.values()))
        t = torch.zeros((), dtype=torch.int64, device=some.device)
        at_step, slots = settings.at(t), {}
        for name, w in params.items():
            at = at_step(name)
            settings.require_fit(at, name, w.shape)
            w, at = _real(w, at)
            slots[name] = _cast(start(w, at), w.dtype)
        return Memory(slots, t)

    def update(
        grads: Tensors, memory: Memory, params: Tensors, t: Tensor
    ) -> tuple[Tensors, Memory]:
        taken = memory.step + 1
        k, at_step = taken.to(torch.float64), settings.at(t)
        new_params, slots = {}, {}
        for name, whole in params.items():
            w, at = _real(whole, at_step(name))
            dtype = w.dtype
            g = as_real(grads[name])
            g = -g if maximize else g
            if not is_zero(at.weight_decay) and decoupled:
                w = (1 - at.lr * at.weight_decay) * w
            elif not is_zero(at.weight_decay):
                g = g + at.weight_decay * w
            w, kept = step(w, g, memory.slots[name], k, at)
            new_params[name] = like(w.to(dtype), whole)
            slots[name] = _cast(kept, dtype)
        return new_params, Memory(slots, taken)

    recipe = None
    if stands_for is not None:
        chosen = [name for name, on in flags.items() if on]
        recipe = Recipe(stands_for, settings, chosen, update)
    return Optimizer(init, update, recipe=recipe)


def as_real(x: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers, in a further dimension of 2."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _real(w: Tensor, at: At) -> tuple[Tensor, At]:
    """Weights as the rule sees them, and their settings."""
    return (as_real(w), at.pairwise()) if w.is_complex() else (w, at)


def like(w: Tensor, whole: Tensor) -> Tensor:
    """What `as_real` gave, as complex where the whole is."""
    return torch.view_as_complex(w.contiguous()) if whole.is_complex() else w


def safe_sqrt(x: Tensor) -> Tensor:
    """√x with derivative 0, not ∞, at x = 0; 0 for what rounding left below 0.

    An unused weight has v = g² = 0 for ever: its derivative is 0 · 1/(2√0) = NaN in
    plain autograd, but the update does not depend on it at all.
    """
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def _cast(kept: Slot, dtype: torch.dtype) -> Slot:
    """Float64 settings and k must not widen what is kept for float32 scalars."""
    if all(not isinstance(x, Tensor) or x.dtype == dtype for x in kept):
        return kept
    return type(kept)(*(x.to(dtype) if isinstance(x, Tensor) else x for x in kept))
