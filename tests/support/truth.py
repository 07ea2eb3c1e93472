"""What derivatives and costs are compared with: differences, and counted operations."""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from raymeta._tree import is_differentiable
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


def largest_relative_error(grads: Tensors, truth: Tensors) -> float:
    """max over hyperparameters of |g - g*| / |g*|, norms over each one's elements.

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
