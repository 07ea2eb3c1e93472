"""References for derivatives and costs: finite differences, counted operations."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils.flop_counter import FlopCounterMode

from raymeta._tree import is_differentiable
from raymeta.hypergrad.base import unroll
from raymeta.outer.report import plain_run
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams, Tensors


def central_differences(
    function: Callable[[Hparams], float], hparams: Hparams, step: float = 1e-6
) -> Tensors:
    """df/dλ for every element of every differentiable entry, to about 1e-9 relative.

    Two central differences, of step h and 2h, extrapolated (Richardson).
    """
    grads = {}
    for name, value in hparams.items():
        if not is_differentiable(value):
            continue
        grad = torch.zeros_like(value)
        for i in range(value.numel()):
            h = step * max(1e-2, abs(float(value.flatten()[i])))

            def at(shift: float, name: str = name, i: int = i) -> float:
                moved = hparams[name].clone()
                moved.view(-1)[i] += shift
                return function({**hparams, name: moved})

            one = (at(h) - at(-h)) / (2 * h)
            two = (at(2 * h) - at(-2 * h)) / (4 * h)
            grad.view(-1)[i] = (4 * one - two) / 3
        grads[name] = grad
    return grads


def run_differences(
    problem: BilevelProblem, hparams: Hparams, steps: int, step: float = 1e-5
) -> Tensors:
    """dE(s_T, λ)/dλ of whole runs by central differences."""
    return central_differences(
        lambda moved: plain_run(problem, moved, steps)[1], hparams, step
    )


def vectorized_differences(
    problem: BilevelProblem, hparams: Hparams, steps: int, step: float
) -> Tensors:
    """What `run_differences` gives, with all its runs in one vectorized pass."""
    sizes = {name: value.numel() for name, value in hparams.items()}
    x = torch.cat([value.flatten() for value in hparams.values()])
    h = step * x.abs().clamp(min=1e-2)
    shifts = torch.stack([factor * h.diag() for factor in (1, -1, 2, -2)])

    def outer_value(x: Tensor) -> Tensor:
        parts = dict(zip(sizes, x.split(list(sizes.values())), strict=True))
        moved = {k: part.reshape(hparams[k].shape) for k, part in parts.items()}
        return value_of_run(problem, moved, steps)

    e = vmap(vmap(outer_value))(x + shifts)
    slopes = (4 * (e[0] - e[1]) / 2 - (e[2] - e[3]) / 4) / (3 * h)
    parts = zip(sizes, slopes.split(list(sizes.values())), strict=True)
    return {name: part.reshape(hparams[name].shape) for name, part in parts}


def value_of_run(problem: BilevelProblem, hparams: Hparams, steps: int) -> Tensor:
    """E(s_T, λ), in its graph."""
    state = unroll(problem, hparams, problem.init(hparams), 0, steps)
    return problem.outer_loss(state, hparams)


def largest_relative_error(grads: Tensors, truth: Tensors) -> float:
    """Max over hyperparameters of |g - g*| / |g*|, norms over each one's elements.

    NaN if one of them is.
    """
    assert set(grads) == set(truth)
    errors = [
        (grads[name] - truth[name]).norm() / truth[name].norm().clamp(min=1e-12)
        for name in truth
    ]
    return float(torch.stack(errors).max())


def flops(function: Callable[[], object]) -> int:
    """Multiply-adds (times two) of all matrix products in a call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()
