"""Episodes of meta-learning: support and query examples of a task."""

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

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
