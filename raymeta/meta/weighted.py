"""Losses of a batch, also where examples have weights and tasks are padded."""

from collections.abc import Callable
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from raymeta._tree import flatten, in_transform, tree_map, unflatten
from raymeta.data.episodes import Episode, Examples
from raymeta.problem import require_scalar

#: (outputs, targets) of a batch -> shape ().
Loss = Callable[[Any, Any], Tensor]


class Unpadded(Examples):
    """Examples of which all weigh 1.

    A class of its own, so that what is traced or vmapped, where values are unknown,
    knows it as part of the structure.
    """

    __slots__ = ()


def with_known_weights(episodes: Episode) -> Episode:
    """The same tasks; support and query are `Unpadded` where all of them weigh 1."""
    return Episode(*map(_known, episodes))


def _known(part: Any) -> Any:
    if type(part) is Examples and bool((part.weight == 1).all()):
        return Unpadded(*part)
    return part


def is_weighted(part: Any) -> bool:
    """Whether these are examples of which not all weigh 1."""
    return isinstance(part, Examples) and not isinstance(part, Unpadded)


def without_padding(examples: Examples) -> Examples:
    """The same, but with the first real example in place of what weighs nothing.

    No number of padding, not even NaN, may come through, in derivatives either.
    """
    if isinstance(examples, Unpadded):
        return examples
    real, count = examples.weight > 0, len(examples.weight)
    places = torch.arange(count, device=real.device)
    rows = torch.where(real, places, real.to(torch.int64).argmax())

    def stand_in(x: Any) -> Any:
        return x.index_select(0, rows) if _is_of_examples(x, count) else x

    inputs, targets = tree_map(stand_in, (examples.inputs, examples.targets))
    return examples._replace(inputs=inputs, targets=targets)


def batch_loss(loss: Loss, outputs: Any, examples: Examples, name: str) -> Tensor:
    r"""The loss of a batch, shape (): $\sum_j w_j \ell_j / \sum_j w_j$.

    Where all examples weigh 1 it is the batch's own, whatever loss that is. Elsewhere
    the loss must be a mean over examples, of which each is taken by itself.

    Args:
        loss: (outputs, targets) -> shape ().
        outputs: any pytree; its tensors whose first dimension is that of the weights
            are of examples each, others of all of them together.
        examples: those of one task, `without_padding`.
        name: what the loss is called, for messages.

    Raises:
        ValueError: it is not of shape (); or examples are weighted, and it is no mean
            over them, or of outputs that cannot be taken apart.
    """
    if isinstance(examples, Unpadded):
        value = loss(outputs, examples.targets)
        require_scalar(name, value)
        return value
    weight = examples.weight
    leaves, spec = flatten((outputs, examples.targets))
    _require_known_containers(leaves, name)
    of_examples = [_is_of_examples(x, len(weight)) for x in leaves]

    def of_some(*each: Tensor) -> Tensor:
        own = iter(each)
        both = zip(leaves, of_examples, strict=True)
        given = [next(own) if single else x for x, single in both]
        value = loss(*unflatten(given, spec))
        require_scalar(name, value)
        return value

    each = list(compress(leaves, of_examples))
    singles = _one_by_one(of_some, each)
    value = (weight * singles).sum() / weight.sum()
    with torch.no_grad():
        apart, together = singles.detach(), of_some(*(x.detach() for x in each))
        scale = apart.abs().mean() + together.abs()
        is_mean = (together - apart.mean()).abs() <= _rounding(apart) * scale
        # What has diverged is no mean either, but it hides nothing.
        is_mean = is_mean | ~together.isfinite()
    return _only_where(is_mean, value, name)


def require_examples_apart(
    network: Callable[[tuple], Any], inputs: tuple, weight: Tensor
) -> None:
    """Raise ValueError where padding changes what a module says of other examples.

    Args:
        network: inputs -> outputs, and whatever else it leaves behind; the same for the
            same inputs, to the bit.
        inputs: what the examples of one task have as inputs.
        weight: theirs; values must be known.
    """
    real, count = weight > 0, len(weight)

    def with_other_padding(x: Any) -> Any:
        if not _is_of_examples(x, count):
            return x
        other = 2 * x + 1 if x.is_floating_point() else x[real][-1:].expand_as(x)
        return torch.where(real.view(-1, *[1] * (x.ndim - 1)), x, other)

    ends = [network(x) for x in (inputs, tree_map(with_other_padding, inputs))]
    for x, y in zip(*(flatten(end)[0] for end in ends), strict=True):
        if not isinstance(x, Tensor):
            continue
        if _is_of_examples(x, count):
            x, y = x[real], y[real]
        if not torch.allclose(x, y, _rounding(x), _rounding(x), equal_nan=True):
            raise ValueError(
                "tasks of unequal sizes (weights other than 1) need a module that takes"
                " each example by itself, but padding changes what this one says of "
                "others, as the statistics of a batch norm do: give tasks of equal "
                "sizes, batch_norm='frozen', or another norm"
            )


def _require_known_containers(leaves: list[Any], name: str) -> None:
    for x in leaves:
        if not isinstance(x, Tensor | str | int | float | None):
            raise ValueError(
                f"tasks of unequal sizes (weights other than 1) need a {name} of "
                f"tensors in tuples, lists and dicts, but got a {type(x).__name__}, "
                "which is not taken apart into examples: return one of these"
            )


def _is_of_examples(x: Any, count: int) -> bool:
    return isinstance(x, Tensor) and x.ndim > 0 and len(x) == count


def _rounding(x: Tensor) -> float:
    """How far apart two ways to the same number may end."""
    return torch.finfo(x.dtype).eps ** 0.5 if x.is_floating_point() else 0.0


def _one_by_one(of_some: Callable[..., Tensor], each: list[Tensor]) -> Tensor:
    """A loss of each example by itself, shape (n,)."""

    def of_one(*each: Tensor) -> Tensor:
        return of_some(*(x[None] for x in each))

    try:
        return vmap(of_one)(*each)
    except RuntimeError:  # It looks at values, or has an operator without a rule.
        if in_transform():
            raise
        return torch.stack([of_one(*row) for row in zip(*each, strict=True)])


def _only_where(is_mean: Tensor, value: Tensor, name: str) -> Tensor:
    """The value where the loss is a mean; NaN elsewhere if values are unknown here.

    The engine then asks for the reason, by taking the task by itself.
    """
    try:
        known = bool(is_mean)
    except RuntimeError:  # within vmap, or traced
        # A factor, which reaches derivatives as well.
        return value * torch.where(is_mean, 1.0, torch.nan).to(value.dtype)
    if not known:
        raise ValueError(
            f"tasks of unequal sizes (weights other than 1) need a {name} that is a "
            "mean over examples, but that of a batch is not the mean of those of its "
            "examples: give tasks of equal sizes, whose batches are taken as they are"
        )
    return value
