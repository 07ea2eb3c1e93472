"""Collectives in a training step: what traces and derivatives make of them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from raymeta.compile.dispatch import Collectives, in_place_collective
from raymeta.distributed.sharded import require_unsharded
from raymeta.problem import BilevelProblem


@contextmanager
def collectives_in(problem: BilevelProblem) -> Iterator[None]:
    """Note which collectives a step of the problem runs."""
    if not (dist.is_available() and dist.is_initialized()):
        yield
        return
    with warnings.catch_warnings(), Collectives() as watch:
        # Said once more, and by name, where it matters.
        warnings.filterwarnings("ignore", ".*autograd kernel was not registered")
        yield
    problem.traced["collectives"] = watch.found


def require_no_lost_derivative(problem: BilevelProblem) -> None:
    """Raise ValueError where a collective writes into a tensor of autograd's graph.

    torch leaves it out of the derivative.
    """
    for name, live in problem.traced.get("collectives", {}).items():
        if live:
            raise ValueError(
                f"a step needs collectives with a derivative, but {name} writes into a "
                "tensor that requires a gradient: put it in a torch.autograd.Function "
                "with its conjugate operator as backward"
            )


def require_functional(problem: BilevelProblem) -> None:
    """Raise ValueError where a step that is to be traced, or vectorized, cannot be.

    Of collectives that write into their tensors traces and transforms see nothing.
    """
    for name in problem.traced.get("collectives", {}):
        raise in_place_collective(name)
    require_unsharded(problem, "traced, compiled and vectorized steps")
