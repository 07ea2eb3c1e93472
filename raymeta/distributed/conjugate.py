r"""Conjugate operators: where a computation is split over ranks, and where it is one.

With W ranks, and tensors $x_r$ of rank r,

$$ S(x)_r = \sum_q x_q,\qquad R(x)_r = x_r,\qquad S^\top = R,\quad R^\top = S $$

on cotangents of what is the same on all ranks. Each one's derivative is the other, so
that they have derivatives of all orders.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import ProcessGroup

from raymeta._tree import partition
from raymeta.compile.functional_collectives import all_reduce, plain


def default_group(group: ProcessGroup | None, what: str) -> ProcessGroup:
    """The group, or that of all ranks.

    Args:
        group: given by a user; None for all ranks.
        what: needs it, as an error message says.

    Raises:
        ValueError: this process is in no group.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            f"{what} needs a process group, but this process is in none: call "
            "torch.distributed.init_process_group first (under torchrun, or in a "
            "worker of Ray Train's TorchTrainer, which does)"
        )
    group = dist.group.WORLD if group is None else group
    if not isinstance(group, ProcessGroup):
        raise ValueError(
            f"{what} needs a group that this process is a rank of, but got {group!r}: "
            "use what torch.distributed.new_group gave on a rank of it"
        )
    return group


def summed(x: Any, group: ProcessGroup | None = None) -> Any:
    r"""The sum over ranks, $\sum_q x_q$: of parts, what is the same on all ranks.

    Its derivative is `replicated`. It composes with `torch.func` (vmap, jvp, grad) and
    has derivatives of all orders; in traced and compiled steps, too. NCCL and gloo
    groups alike.

    Args:
        x: a tensor, or a pytree of which the floating-point tensors are summed; of the
            same structure on every rank.
        group: the ranks; all by default.

    Raises:
        ValueError: this process is in no group.
    """
    return _applied(_Summed, x, default_group(group, "summed"))


def replicated(tree: Any, group: ProcessGroup | None = None) -> Any:
    r"""What is the same on all ranks, where each goes on to compute a part by it.

    The identity, but its derivative is `summed`: a cotangent is the sum of what comes
    from the parts of all ranks. With `summed` around a part of a loss,

        loss = summed(part(replicated((params, hparams)), my_examples))

    has on every rank the value and the derivatives that one process computes.

    Args:
        tree: a tensor, or a pytree of which the floating-point tensors are meant; the
            same on every rank.
        group: the ranks; all by default.

    Raises:
        ValueError: this process is in no group.
    """
    return _applied(_Replicated, tree, default_group(group, "replicated"))


def _applied(function: Any, tree: Any, group: ProcessGroup) -> Any:
    leaves, rest, merge = partition(tree)
    return merge(list(function.apply(group, *leaves)), rest) if leaves else tree


class _Conjugate(torch.autograd.Function):
    """What both have in common.

    Attributes:
        conjugate: the other one.
    """

    conjugate: Any

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.group = inputs[0]
        # What has no cotangent on one rank has none on any: nothing is sent of it.
        ctx.set_materialize_grads(False)

    @classmethod
    def vmap(
        cls, info: Any, in_dims: tuple, group: ProcessGroup, *xs: Tensor
    ) -> tuple[Any, tuple]:
        """Element by element: where a tensor has the dimension does not matter."""
        return cls.apply(group, *xs), tuple(in_dims[1:])


def _of_those_given(function: Any, group: ProcessGroup, xs: Sequence[Any]) -> list:
    given = [x for x in xs if x is not None]
    results = iter(function.apply(group, *given) if given else ())
    return [None if x is None else next(results) for x in xs]


class _Summed(_Conjugate):
    @staticmethod
    def forward(group: ProcessGroup, *xs: Tensor) -> tuple[Tensor, ...]:
        with plain():
            real = [torch.view_as_real(x) if x.is_complex() else x for x in xs]
            sums = all_reduce(real, group)
            return tuple(
                torch.view_as_complex(total) if x.is_complex() else total
                for x, total in zip(xs, sums, strict=True)
            )

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple:
        return None, *_of_those_given(_Replicated, ctx.group, cotangents)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Any) -> tuple:
        return tuple(_of_those_given(_Summed, ctx.group, tangents))


class _Replicated(_Conjugate):
    @staticmethod
    def forward(group: ProcessGroup, *xs: Tensor) -> tuple[Tensor, ...]:
        with plain():
            return tuple(x.view_as(x) for x in xs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple:
        return None, *_of_those_given(_Summed, ctx.group, cotangents)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Any) -> tuple:
        return tuple(_of_those_given(_Replicated, ctx.group, tangents))
