"""Dual numbers through a training step: a state, and its derivatives in λ."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.overrides import TorchFunctionMode

from raymeta._tree import detach, partition, tree_leaves
from raymeta.hypergrad.memory import device_memory
from raymeta.problem import BilevelProblem
from raymeta.types import Batch, Hparams, State, Tensors

#: From here on forward mode is refused: one tangent of the whole state for each scalar.
MANY = 100_000
#: What shows a Python number as float64 to the tangent of a scalar.
ARITHMETIC = {
    prefix + name
    for prefix in ("", "r")
    for name in ("add", "sub", "mul", "div", "truediv", "true_divide")
}


def basis(leaves: Tensors) -> Tensors:
    """One tangent per scalar of λ: name -> shape (K, *shape), together the identity."""
    sizes = [leaf.numel() for leaf in leaves.values()]
    some = next(iter(leaves.values()))
    identity = torch.eye(sum(sizes), dtype=some.dtype, device=some.device)
    blocks = identity.split(sizes, dim=1)
    return {
        name: block.reshape(-1, *leaf.shape).to(leaf.dtype)
        for (name, leaf), block in zip(leaves.items(), blocks, strict=True)
    }


def start(problem: BilevelProblem, hparams: Hparams, leaves: Tensors) -> list[Tensor]:
    """ds_0/dλ, one per differentiable leaf of s_0, shape (K, *shape)."""

    def init(live: Tensors) -> tuple[list[Tensor], Any]:
        values, rest, _ = partition(problem.init({**hparams, **live}))
        return values, rest

    return detach(_push(init, (leaves,), (basis(leaves),))[1])


Duals = tuple[State, list[Tensor]]
Constants = tuple[Hparams, Tensors]


def push(
    problem: BilevelProblem, data_moves: bool
) -> Callable[[Duals, Constants, Batch], Duals]:
    r"""The step of dual numbers.

    $$ s_{t+1} = \Phi(s_t, \lambda, b_t),\qquad Z_{t+1} = A_{t+1} Z_t + B_{t+1} $$

    Args:
        problem: Φ.
        data_moves: whether the data have tangents, too, all 0: see `data_must_move`.

    Returns:
        ((s_t, Z_t), (λ, directions in λ), b_t) -> (s_{t+1}, Z_{t+1}), where Z is as
        `start` gives it and a direction has shape (K, *shape).

    """

    def step(duals: Duals, constants: Constants, b: Batch) -> Duals:
        (state, tangents), (hparams, directions) = duals, constants
        leaves = {name: hparams[name] for name in directions}
        values, rest, merge = partition(state)
        data, indices, merge_data = partition(b.data)

        def moved(
            values: list[Tensor], live: Tensors, data: list[Tensor]
        ) -> tuple[list[Tensor], Any]:
            at = b._replace(data=merge_data(data, indices))
            new = problem.step(merge(values, rest), {**hparams, **live}, at)
            new_values, new_rest, _ = partition(new)
            return new_values, new_rest

        def still(values: list[Tensor], live: Tensors) -> tuple[list[Tensor], Any]:
            return moved(values, live, data)

        if data_moves:
            count = len(next(iter(directions.values())))
            zeros = [torch.zeros_like(x).expand(count, *x.shape) for x in data]
            pushed = _push(moved, (values, leaves, data), (tangents, directions, zeros))
        else:
            pushed = _push(still, (values, leaves), (tangents, directions))
        new_values, new_tangents, new_rest = pushed
        return detach(merge(new_values, new_rest)), detach(new_tangents)

    return step


def data_must_move(
    problem: BilevelProblem, duals: Duals, constants: Constants, b: Batch
) -> bool:
    """Whether a step of dual numbers works only where the data have tangents.

    torch's forward derivative of some losses (mse_loss) fails where one argument has a
    tangent and the other none.

    Raises:
        ValueError: an operator has no forward derivative.
    """
    try:
        push(problem, data_moves=False)(duals, constants, b)
        return False
    except NotImplementedError as error:
        raise _no_forward(error) from error
    except RuntimeError:
        pass
    try:
        push(problem, data_moves=True)(duals, constants, b)
    except RuntimeError as error:
        raise _no_forward(error) from error
    return True


def _no_forward(error: RuntimeError) -> ValueError:
    told = str(error).splitlines()[0]
    return ValueError(
        "Forward needs operators with a forward derivative, but torch says: "
        f"{told}; write the operator out, or use Reverse"
    )


def require_room(state: State, leaves: Tensors) -> None:
    """Raise ValueError where K tangents of the state are too many."""
    count = sum(leaf.numel() for leaf in leaves.values())
    tensors = [x for x in tree_leaves((state, leaves)) if isinstance(x, Tensor)]
    size = count * sum(x.numel() * x.element_size() for x in tensors)
    if count >= MANY or size > device_memory(tensors[0].device):
        largest = max(leaves, key=lambda name: leaves[name].numel())
        raise ValueError(
            "Forward carries a derivative of the whole state for each of the "
            f"{count:,} scalar hyperparameters ({leaves[largest].numel():,} in "
            f"{largest!r}), {size / 2**30:,.1f} GiB: use a reverse-type estimator "
            "(Reverse, Checkpointed, Truncated, ShortTerm, Implicit)"
        )


def _push(function: Any, primals: tuple, tangents: tuple) -> tuple[Any, Any, Any]:
    """One primal pass, K tangents: ((leaves, rest), tangents of the leaves).

    `function` returns (leaves, rest); tangents have a leading dimension K.
    """

    def along(tangents: tuple) -> tuple[Any, Any, Any]:
        values, new_tangents, rest = jvp(function, primals, tangents, has_aux=True)  # type: ignore[misc]
        pairs = zip(values, new_tangents, strict=True)
        return values, [z.to(value.dtype) for value, z in pairs], rest

    # The primal does not depend on the tangent: vmap computes it once (out_dims None).
    out_dims: Any = (None, 0, None)
    with _TypedNumbers():
        return vmap(along, out_dims=out_dims, randomness="same")(tangents)


class _TypedNumbers(TorchFunctionMode):
    """Lets 2.0 * λ have a tangent of the type of λ.

    To torch's forward derivative of a tensor of shape (), a Python number is a tensor
    of float64, and so becomes the tangent.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "").strip("_") in ARITHMETIC:
            scalars = [x for x in args if isinstance(x, Tensor) and x.ndim == 0]
            if scalars and scalars[0].is_floating_point():
                like = scalars[0]
                args = tuple(
                    torch.tensor(x, dtype=like.dtype, device=like.device)
                    if isinstance(x, int | float)
                    else x
                    for x in args
                )
        return func(*args, **(kwargs or {}))
