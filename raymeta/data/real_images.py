"""Batches of real images, which judge what was learnt from distilled ones."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from raymeta.data.digits import digit_parts
from raymeta.data.episodes import Episode, Examples, SplitName
from raymeta.data.random import draws
from raymeta.errors import require_types


@dataclass(frozen=True, kw_only=True)
class DigitBatches:
    """Batches of scikit-learn's digits: 1,078 training images, 359 and 360 others.

    Support is `()`: a network is trained on images that are learnt. Query is `Examples`
    of images (N, n, 1, 8, 8) in [0, 1] and labels (N, n).

    Attributes:
        batch_size: training images in a query, drawn anew for each task without
            replacement. On validation and test tasks a query is all images of the
            split, the same for each task.

    Raises:
        ValueError: a batch is empty, or larger than the training part.

    Source: Wang et al. 2018, "Dataset distillation", algorithm 1, whose steps each
    draw a minibatch of real training data.
    """

    batch_size: int = 256
    name: ClassVar[str] = "digit-batches"

    def __post_init__(self) -> None:
        """Check the size."""
        require_types(self)
        size = len(digit_parts()["train"][1])
        if not 1 <= self.batch_size <= size:
            raise ValueError(
                f"digit batches need 1 <= batch_size <= {size}, the training images, "
                f"but got {self.batch_size}"
            )

    def episodes(
        self,
        step: int,
        count: int,
        start: int,
        stop: int,
        *,
        seed: int,
        split: SplitName,
    ) -> Episode:
        """Tasks start … stop - 1 of a step: see `Family.episodes`."""
        random = draws(step, count, start, stop, seed=seed, split=split)
        images, labels = digit_parts()[split]
        if split == "train":
            index = random.distinct("batch", self.batch_size, len(labels))
        else:
            index = torch.arange(len(labels)).repeat(stop - start, 1)
        inputs = images[index].to(torch.get_default_dtype())
        return Episode((), Examples.unweighted(inputs, labels[index]))
