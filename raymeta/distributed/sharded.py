"""Sharded tensors: torch's DTensors, of which each rank holds a part."""

import sys
from typing import Any

from torch import Tensor

from raymeta._tree import named_leaves
from raymeta.problem import BilevelProblem
from raymeta.types import State


def is_sharded(x: Any) -> bool:
    """Whether it is a DTensor."""
    # Where the module was not imported there are none.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def full(x: Any) -> Any:
    """A tensor as a whole, the same on every rank: parts are put together, or summed.

    A derivative by what every rank has, of what each has a part of, is a sum of parts.
    """
    return x.full_tensor() if is_sharded(x) else x


def note_sharded(problem: BilevelProblem, state: State) -> None:
    """Keep in mind which tensor of a state is sharded, if one is."""
    found = [name for name, x in named_leaves(state).items() if is_sharded(x)]
    problem.traced["sharded"] = found[0] if found else None


def require_unsharded(problem: BilevelProblem, what: str) -> None:
    """Raise ValueError where a state has DTensors, which cannot be taken.

    Args:
        problem: of which a state was seen.
        what: cannot take them, in the plural.
    """
    name = problem.traced.get("sharded")
    if name is not None:
        raise ValueError(
            f"{what} cannot take DTensors, but state{name} is one: use Reverse, "
            "Checkpointed, Truncated or ShortTerm, without compile=True"
        )


def require_full(name: str, loss: Tensor) -> None:
    """Raise ValueError where a loss is a DTensor, of which a rank may hold a part."""
    if is_sharded(loss):
        raise ValueError(
            f"{name} must return the same plain tensor on every rank, but returned a "
            f"DTensor: take its .full_tensor()"
        )
