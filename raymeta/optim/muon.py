"""Muon: momentum whose matrices are made orthogonal."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.errors import require_flags, said
from raymeta.optim.base import Memory, Optimizer, tensorwise
from raymeta.optim.settings import At, Setting, Settings
from raymeta.types import State, Tensors

#: a, b and c of the iteration, as `torch.optim.Muon` has them.
COEFFICIENTS = (3.4445, -4.775, 2.0315)


class MuonMemory(NamedTuple):
    """What `muon` keeps.

    Attributes:
        matrices: their velocities.
        others: what the rule of the other parameters keeps; `()` without such.
    """

    matrices: Memory
    others: State


class Velocity(NamedTuple):
    """What `muon` keeps for one matrix.

    Attributes:
        velocity: of its shape.
    """

    velocity: Tensor


def muon(
    lr: Setting = 1e-3,
    *,
    weight_decay: Setting = 0.1,
    momentum: Setting = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
    eps: float = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
    others: Optimizer | None = None,
    besides: tuple[str, ...] = (),
) -> Optimizer:
    r"""Muon as in `torch.optim.Muon`, differentiable through its iteration.

    $$ v \leftarrow \mu v + (1-\mu) g,\quad
       w \leftarrow w - \alpha\lambda w - \alpha\, r\, \mathrm{NS}(v) $$

    with (1 - μ) g + μ v in place of v for Nesterov, and NS the Newton-Schulz iteration
    $X \leftarrow a X + (b A + c A^2) X$, $A = X X^\top$, from v / ‖v‖. It runs in the
    precision of the weights, where torch's runs in bfloat16.

    Args:
        lr: α. Numbers, tensors, mappings and schedules: see `Setting`.
        weight_decay: λ, decoupled.
        momentum: μ.
        nesterov: look ahead.
        ns_coefficients: (a, b, c).
        eps: the least ‖v‖ to divide by.
        ns_steps: iterations.
        adjust_lr_fn: what r is: "original", $\sqrt{\max(1, n/m)}$ for n × m weights, as
            None, or "match_rms_adamw", $0.2 \sqrt{\max(n, m)}$.
        others: the rule of parameters that are no real matrices, such as
            `adamw(h["adamw_lr"])`.
        besides: names of matrices, or dotted prefixes of them (layers), that `others`
            is for as well: embeddings and heads, as a rule.

    Raises:
        ValueError: a number outside its range; an unknown `adjust_lr_fn`. From `init`:
            parameters that are no matrices, without `others`; no matrix at all.

    Source: Jordan et al. 2024; Liu et al. 2025 for "match_rms_adamw".
    """
    require_flags("muon", nesterov=nesterov)
    if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
        raise ValueError(
            "muon needs adjust_lr_fn='original' or 'match_rms_adamw', but got "
            f"{said(adjust_lr_fn)}"
        )
    if not isinstance(ns_steps, int) or not 1 <= ns_steps < 100:
        raise ValueError(f"muon needs ns_steps from 1 to 99, but got {said(ns_steps)}")
    given = ns_coefficients if isinstance(ns_coefficients, tuple | list) else ()
    if len(given) != 3 or not all(isinstance(x, int | float) for x in given):
        raise ValueError(
            "muon needs three numbers (a, b, c) as ns_coefficients, but got "
            f"{said(ns_coefficients)}"
        )
    if not isinstance(eps, int | float) or not eps >= 0:
        raise ValueError(f"muon needs eps >= 0, but got {said(eps)}")
    if others is not None and not isinstance(others, Optimizer):
        raise ValueError(f"muon needs an optimizer as others, but got {said(others)}")
    several = isinstance(besides, tuple | list | set | frozenset)
    if not several or not all(isinstance(name, str) for name in besides):
        raise ValueError(
            f"muon needs names of parameters as besides, but got {said(besides)}"
        )

    def step(
        w: Tensor, g: Tensor, memory: Velocity, k: Tensor, at: At
    ) -> tuple[Tensor, Velocity]:
        v = at.momentum * memory.velocity + (1 - at.momentum) * g
        x = (1 - at.momentum) * g + at.momentum * v if nesterov else v
        direction = newton_schulz(x, ns_coefficients, ns_steps, eps)
        w = w - at.lr * learning_rate_ratio(adjust_lr_fn, w.shape) * direction
        return w, Velocity(v)

    rule = tensorwise(
        lambda w, at: Velocity(torch.zeros_like(w)),
        step,
        Settings(
            "muon",
            nonnegative={"lr": lr, "weight_decay": weight_decay},
            fractions={"momentum": momentum},
        ),
        decoupled=True,
    )

    def parted(tensors: Tensors, params: Tensors) -> tuple[Tensors, Tensors]:
        matrices = {
            name
            for name, w in params.items()
            if w.ndim == 2
            and not w.is_complex()
            and not any(name == own or name.startswith(f"{own}.") for own in besides)
        }
        own = {name: x for name, x in tensors.items() if name in matrices}
        return own, {name: x for name, x in tensors.items() if name not in matrices}

    def init(params: Tensors) -> MuonMemory:
        matrices, rest = parted(params, params)
        if not matrices:
            raise ValueError(
                f"muon needs a matrix among the parameters, but got {sorted(params)}: "
                "use another rule"
            )
        if rest and others is None:
            raise ValueError(
                f"muon is a rule for real matrices, but {sorted(rest)} are none, or "
                "are named in besides: give others=, such as adamw(1e-3)"
            )
        own = rule.init(matrices)
        return MuonMemory(own, others.init(rest) if rest and others else ())

    def update(
        grads: Tensors, memory: MuonMemory, params: Tensors, t: Tensor
    ) -> tuple[Tensors, MuonMemory]:
        matrices, rest = parted(params, params)
        slopes, other_slopes = parted(grads, params)
        matrices, own = rule.update(slopes, memory.matrices, matrices, t)
        kept = memory.others
        if rest:
            assert others is not None
            rest, kept = others.update(other_slopes, kept, rest, t)
        found = {**matrices, **rest}
        return {name: found[name] for name in params}, MuonMemory(own, kept)

    return Optimizer(init, update)


def newton_schulz(
    x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """The iteration X ← a X + (b A + c A²) X with A = X Xᵀ, from X / ‖X‖."""
    a, b, c = coefficients
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def learning_rate_ratio(adjust: str | None, shape: torch.Size) -> float:
    """R of `muon`."""
    rows, columns = shape
    if adjust == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns))
