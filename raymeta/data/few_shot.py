"""N-way K-shot classification."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from raymeta.data.digits import digits
from raymeta.data.episodes import SPLITS, Episode, Examples, SplitName
from raymeta.data.random import draws
from raymeta.errors import require_types


class LabelledImages(NamedTuple):
    """Images of many classes.

    Attributes:
        images: shape (n, channels, height, width): floats, or uint8, which episodes
            scale to [0, 1].
        labels: the number of each image's class, shape (n,), int64.
        names: names of the classes.
        source: where they come from, for error messages.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    source: str


@dataclass(frozen=True, kw_only=True, eq=False)
class FewShot:
    """Tell N classes apart that were not seen before, from K examples of each.

    A task draws N classes of its split in random order, which numbers them 0 … N - 1,
    and K + Q different examples of each. Support is `Examples` of images
    (tasks, N K, channels, height, width) and class numbers (tasks, N K), class by
    class; query likewise with Q for K.

    Attributes:
        name: name of the family.
        data: the images.
        classes: split -> its classes; none is in two.
        ways: N.
        shots: K; or the least and the most, from which each class of each task draws
            its own K uniformly. There are always `most` places for a class: those after
            its K are zero, of class and weight as well.
        queries: Q.

    Raises:
        ValueError: classes in two splits; a split with fewer than N; a class with fewer
            than K + Q examples; N < 2, K < 1 or Q < 1.

    Source: Vinyals et al. 2016, section 4.1.
    """

    name: str
    data: LabelledImages
    classes: Mapping[SplitName, Sequence[int]]
    ways: int = 5
    shots: int | tuple[int, int] = 1
    queries: int = 15

    def __post_init__(self) -> None:
        """Check the sizes."""
        require_types(self)
        least, most = self._least_and_most
        if self.ways < 2 or not 1 <= least <= most or self.queries < 1:
            raise ValueError(
                f"few-shot tasks need ways >= 2, shots >= 1 (or 1 <= least <= most) "
                f"and queries >= 1, but got ways={self.ways}, shots={self.shots}, "
                f"queries={self.queries}"
            )
        self._require_labels()
        self._require_disjoint()
        self._require_classes()
        self._require_examples(most + self.queries)

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
        members, sizes = self._members[split]
        least, most = self._least_and_most
        chosen = random.distinct("classes", self.ways, len(sizes))
        order = random.uniform("examples", self.ways, members.shape[1])
        order[torch.arange(members.shape[1]) >= sizes[chosen][..., None]] = -1.0
        picks = order.topk(most + self.queries).indices
        index = members[chosen].gather(-1, picks)
        support, query = index.split([most, self.queries], dim=-1)
        given = least + random.integers("shots", most - least + 1, self.ways)
        present = torch.arange(most) < given[..., None]
        return Episode(
            self._examples(support, present),
            self._examples(query, torch.ones_like(query, dtype=torch.bool)),
        )

    def _examples(self, index: Tensor, present: Tensor) -> Examples:
        """The examples at (tasks, N, places), zero where none is present."""
        dtype = torch.get_default_dtype()
        images = self.data.images[index.flatten(1)]
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        numbers = torch.arange(self.ways)[:, None] * present
        weight = present.flatten(1).to(dtype)
        inputs = images.to(dtype).div_(scale)
        if not present.all():
            inputs *= weight[..., None, None, None]
        return Examples(inputs, numbers.flatten(1), weight)

    @property
    def _least_and_most(self) -> tuple[int, int]:
        return (self.shots,) * 2 if isinstance(self.shots, int) else self.shots

    @cached_property
    def _members(self) -> dict[SplitName, tuple[Tensor, Tensor]]:
        """Split -> the examples of its classes (classes, most of all), and how many."""
        order = self.data.labels.argsort(stable=True)
        sizes = self._sizes
        groups = order.split(sizes.tolist())
        table = torch.nn.utils.rnn.pad_sequence(list(groups), batch_first=True)
        parts = {split: torch.tensor(self.classes[split]) for split in SPLITS}
        return {split: (table[part], sizes[part]) for split, part in parts.items()}

    @property
    def _sizes(self) -> Tensor:
        return self.data.labels.bincount(minlength=len(self.data.names))

    def _require_labels(self) -> None:
        images, labels, names, source = self.data
        if len(images) != len(labels) or not 0 <= labels.min() <= labels.max() < len(
            names
        ):
            raise ValueError(
                f"each image needs a label of 0 … {len(names) - 1}, but {source} has "
                f"{len(images)} images and {len(labels)} labels of "
                f"{labels.min()} … {labels.max()}"
            )

    def _require_disjoint(self) -> None:
        listed = Counter(c for split in SPLITS for c in self.classes[split])
        if twice := sorted(c for c, times in listed.items() if times > 1):
            raise ValueError(
                f"the splits of {self.data.source} share classes "
                f"{[self.data.names[c] for c in twice]}: give each to one"
            )

    def _require_classes(self) -> None:
        counts = [len(self.classes[split]) for split in SPLITS]
        if min(counts) < self.ways:
            raise ValueError(
                f"{self.ways}-way tasks need {self.ways} classes in each split, but "
                f"{self.data.source} has {' + '.join(map(str, counts))} for "
                f"{' + '.join(SPLITS)}: lower ways or give more classes"
            )

    def _require_examples(self, needed: int) -> None:
        sizes = self._sizes.tolist()
        listed = [c for split in SPLITS for c in self.classes[split]]
        if few := sorted(c for c in listed if sizes[c] < needed):
            shown = ", ".join(f"{self.data.names[c]} ({sizes[c]})" for c in few[:3])
            raise ValueError(
                f"each class needs shots + queries = {needed} examples, but "
                f"{len(few)} of {len(listed)} in {self.data.source} have fewer: "
                f"{shown}{', …' if len(few) > 3 else ''}; lower shots or queries, or "
                "remove these classes"
            )


def few_shot_digits(
    *, ways: int = 3, shots: int | tuple[int, int] = 5, queries: int = 15
) -> FewShot:
    """Few-shot tasks on scikit-learn's digits, 8x8.

    0 to 3 are for training, 4 to 6 for validation, 7 to 9 for test: the only way to
    have 3-way tasks in all three with ten classes and most for training.

    Args:
        ways: N, 2 or 3.
        shots: K, or the least and the most.
        queries: Q.

    Raises:
        ValueError: as `FewShot`.
    """
    images, labels = digits()
    data = LabelledImages(
        images.view(-1, 1, 8, 8), labels, tuple("0123456789"), "scikit-learn's digits"
    )
    return FewShot(
        name="few-shot-digits",
        data=data,
        classes={"train": (0, 1, 2, 3), "val": (4, 5, 6), "test": (7, 8, 9)},
        ways=ways,
        shots=shots,
        queries=queries,
    )
