"""Images as functions from coordinates to pixel values."""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from raymeta.data.digits import digit_parts
from raymeta.data.episodes import Episode, Examples, SplitName
from raymeta.data.random import Draws, draws
from raymeta.errors import require_types

#: The columns of the photographs, 640 wide, that each split owns.
COLUMNS: dict[SplitName, tuple[int, int]] = {
    "train": (0, 384),
    "val": (384, 512),
    "test": (512, 640),
}


@dataclass(frozen=True, kw_only=True)
class DigitFunctions:
    """Images of digits, 8x8, as functions [-1, 1]² -> [0, 1].

    Query is `Examples` of the coordinates (row, column) of all pixels (N, 64, 2) and
    their values (N, 64, 1). The splits share no image.

    Attributes:
        support: pixels of the support, drawn at random; None: it is the query.

    Raises:
        ValueError: more support pixels than an image has, or none.

    Source: Dupont et al. 2022, "From data to functa", section 2.
    """

    support: int | None = None
    name: ClassVar[str] = "digit-functions"

    def __post_init__(self) -> None:
        """Check the support."""
        require_types(self)
        _require_pixels(self.support, 8)

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
        images, _ = digit_parts()[split]
        chosen = images[random.integers("image", len(images))]
        return _functions(chosen.movedim(1, -1), self.support, random)


@dataclass(frozen=True, kw_only=True)
class PhotographFunctions:
    """Patches of two colour photographs as functions [-1, 1]² -> [0, 1]³.

    Query is `Examples` of the coordinates (row, column) of all pixels (N, size², 2) and
    their colours (N, size², 3). The photographs are 427x640; training patches lie in
    their columns 0 to 383, those of validation in 384 to 511, of test in 512 to 639: no
    pixel belongs to two splits.

    Attributes:
        size: rows and columns of a patch.
        support: pixels of the support, drawn at random; None: it is the query.

    Raises:
        ValueError: a patch does not fit in a split's columns; more support pixels than
            it has, or none.

    Source: Dupont et al. 2022, "From data to functa", section 2; the photographs come
    with scikit-learn (`load_sample_images`; CC BY 2.0).
    """

    size: int = 16
    support: int | None = None
    name: ClassVar[str] = "photograph-functions"

    def __post_init__(self) -> None:
        """Check the sizes."""
        require_types(self)
        widest = min(stop - start for start, stop in COLUMNS.values())
        if not 2 <= self.size <= widest:
            raise ValueError(
                f"photograph functions need 2 <= size <= {widest}, the columns of the "
                f"smallest split, but got size={self.size}"
            )
        _require_pixels(self.support, self.size)

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
        photographs, (first, last) = _photographs(), COLUMNS[split]
        which = random.integers("photograph", len(photographs))
        top = random.integers("row", photographs.shape[1] - self.size + 1)
        left = first + random.integers("column", last - first - self.size + 1)
        along = torch.arange(self.size)
        rows, columns = top[:, None] + along, left[:, None] + along
        patches = photographs[
            which[:, None, None], rows[:, :, None], columns[:, None, :]
        ]
        return _functions(patches.double() / 255, self.support, random)


def coordinates(height: int, width: int) -> Tensor:
    """(row, column) of all pixels, row by row, in [-1, 1]²: (height width, 2)."""
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    return torch.cartesian_prod(rows, columns)


def _functions(images: Tensor, support: int | None, random: Draws) -> Episode:
    """Images (N, height, width, channels) as functions."""
    tasks, height, width, _ = images.shape
    inputs = coordinates(height, width).repeat(tasks, 1, 1)
    targets = images.flatten(1, 2).to(inputs.dtype)
    query = Examples.unweighted(inputs, targets)
    if support is None:
        return Episode(query, query)
    pixels = random.distinct("pixels", support, height * width)[..., None]
    seen = (x.take_along_dim(pixels, dim=1) for x in (inputs, targets))
    return Episode(Examples.unweighted(*seen), query)


def _require_pixels(support: int | None, size: int) -> None:
    if support is not None and not 1 <= support <= size**2:
        raise ValueError(
            f"images as functions need 1 <= support <= {size**2}, the pixels of an "
            f"image, but got support={support}: None takes all"
        )


@cache
def _photographs() -> Tensor:
    """Shape (2, 427, 640, 3), uint8."""
    # scikit-learn takes a second to import: only who needs the data pays for it.
    from sklearn.datasets import load_sample_images

    return torch.from_numpy(np.stack(load_sample_images().images))
