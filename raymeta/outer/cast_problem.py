"""Problem whose training runs in another precision."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from raymeta._tree import detach, partition, tree_map
from raymeta.errors import one_line
from raymeta.hypergrad.preflight import require_alike
from raymeta.problem import BilevelProblem
from raymeta.types import Batch, Hparams, State

#: How far a step in another precision may be, as a share of its length: what is farther
#: draws other random numbers.
SHARE = 1e-2
#: And how many roundings of the state itself.
ROUNDINGS = 8


def precision_of(problem: BilevelProblem, hparams: Hparams) -> torch.dtype:
    """The widest precision of the real tensors of s_0; torch's default without any."""
    state = partition(detach(problem.init(hparams)))[0]
    kinds = {x.dtype for x in state if x.is_floating_point()}
    return max(kinds, key=lambda d: d.itemsize, default=torch.get_default_dtype())


def cast_problem(
    problem: BilevelProblem, dtype: torch.dtype, own: torch.dtype
) -> BilevelProblem:
    """The same training in another precision; E is computed in the problem's own.

    What Φ closes over stays as it is: where that does not go with states of the other
    precision, a step raises.

    Args:
        problem: what is trained.
        dtype: the other precision.
        own: see `precision_of`.
    """

    def step(state: State, hparams: Hparams, batch: Batch) -> State:
        data = _cast(batch.data, dtype)
        return problem.step(state, _cast(hparams, dtype), Batch(batch.index, data))

    return replace(
        problem,
        init=lambda hparams: _cast(problem.init(hparams), dtype),
        step=step,
        outer_loss=lambda s, h: problem.outer_loss(_cast(s, own), _cast(h, own)),
        inner_loss=None,
        metrics=None,
        fold_losses=None,
        holdout_loss=None,
        module=None,
    )


def why_not_cast(
    problem: BilevelProblem, hparams: Hparams, dtype: torch.dtype, own: torch.dtype
) -> str:
    """Why the first step cannot be taken in another precision; "" where it can."""
    other, batch = cast_problem(problem, dtype, own), problem.batch(0)
    try:
        s_1 = detach(other.step(other.init(hparams), hparams, batch))
        require_alike(other.init(hparams), s_1)
        float(other.outer_loss(s_1, hparams))
    except Exception as error:  # whatever a user's function says of another dtype
        return one_line(error)[:120]
    s_0 = detach(problem.init(hparams))
    own_s_1 = detach(problem.step(s_0, hparams, batch))
    coarse = max(torch.finfo(dtype).eps, torch.finfo(own).eps)
    trees = (partition(tree)[0] for tree in (s_0, own_s_1, s_1))
    for before, after, cast in zip(*trees, strict=True):
        off, length = (after - cast).norm(), (after - before).norm()
        if off > SHARE * length + ROUNDINGS * coarse * after.norm():
            return "a step draws other random numbers in it"
    return ""


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    """The real floating-point tensors of a tree in another precision."""
    return tree_map(
        lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x,
        tree,
    )
