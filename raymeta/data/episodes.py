"""Episodes of meta-learning: support and query examples of a task."""

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from raymeta._tree import tree_leaves, tree_map

#: The parts of a family's tasks: for learning θ, for choosing, for the final look.
SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


class Examples(NamedTuple):
    """Labelled data; of N tasks along a leading dimension of every tensor.

    A loss of examples is their weighted mean, Σ w_j ℓ_j / Σ w_j; where all weigh 1, the
    batch's own.

    Attributes:
        inputs: shape (n, ...).
        targets: shape (n, ...).
        weight: w, shape (n,): 1 for an example, 0 for padding where sizes differ.
    """

    inputs: Tensor
    targets: Tensor
    weight: Tensor

    @classmethod
    def unweighted(cls, inputs: Tensor, targets: Tensor) -> "Examples":
        """Those of N tasks, all of weight 1: inputs and targets (N, n, ...)."""
        return cls(inputs, targets, torch.ones(inputs.shape[:2]))


class Episode(NamedTuple):
    """One task, or many along a leading dimension of every tensor.

    Attributes:
        support: what the inner loop trains on, any pytree of tensors.
        query: what the outer loss judges, likewise.
    """

    support: Any
    query: Any


def require_episode(episodes: object) -> None:
    """Raise ValueError unless this is an `Episode`."""
    if not isinstance(episodes, Episode):
        raise ValueError(
            f"tasks must be an Episode, but got a {type(episodes).__name__}: give "
            "raymeta.data.Episode(support, query), for modules each an "
            "Examples(inputs, targets, weight) with tasks along the first dimension"
        )


def one_task(examples: object) -> Episode:
    """The episode of one task, which is judged by its own examples.

    Args:
        examples: `(inputs, targets)` or `Examples`, shape (n, ...).

    Raises:
        ValueError: they are neither; or not as many targets as inputs, or none.
    """
    if isinstance(examples, tuple) and len(examples) == 2:
        examples = Examples(*examples, weight=torch.ones(_count(*examples)))
    if not isinstance(examples, Examples):
        raise ValueError(
            "a module adapts to (inputs, targets) or Examples of one task, or to an "
            f"Episode of several, but got a {type(examples).__name__}: give one of them"
        )
    alone = tree_map(lambda x: x[None], examples)
    return Episode(alone, alone)


def _count(inputs: Any, targets: Any) -> int:
    """How many examples tensors have in common."""
    counts = [x.shape[:1] for x in tree_leaves((inputs, targets))]
    if len(set(counts)) != 1 or not counts[0] or not counts[0][0]:
        said = [tuple(x.shape) for x in tree_leaves((inputs, targets))]
        raise ValueError(
            "examples need as many targets as inputs, along the first dimension, but "
            f"got shapes {said}"
        )
    return counts[0][0]
