"""Few-shot classification on folders of images, as Omniglot comes."""

import zipfile
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from raymeta.data.episodes import SplitName
from raymeta.data.few_shot import FewShot, LabelledImages

SIDE = 28
#: Names within the folder, and how to read them.
Files = list[tuple[PurePosixPath, Callable[[], bytes]]]
LAYOUT = "alphabet/character/drawing.png"


def omniglot(
    path: str | Path,
    *,
    ways: int = 5,
    shots: int | tuple[int, int] = 1,
    queries: int = 15,
    rotations: bool = True,
    fractions: tuple[float, float] = (0.6, 0.2),
    seed: int = 0,
) -> FewShot:
    """Few-shot tasks on the characters in a folder, split by characters.

    Images are (1, 28, 28) with strokes near 1 on a background of 0.

    Args:
        path: a folder, or a zip archive of one, with `alphabet/character/drawing.png`
            inside, at any depth: each folder that holds images is a class.
        ways: N.
        shots: K, or the least and the most.
        queries: Q.
        rotations: characters turned by 90°, 180° and 270° are further classes, of
            their character's split.
        fractions: shares of the characters for training and validation; the rest is
            for test.
        seed: seeds this split.

    Raises:
        ValueError: as `read_folders` and `FewShot`.

    Source: Lake et al. 2015; the preparation: Vinyals et al. 2016, section 4.1.1, and
    Santoro et al. 2016, section 4.1, for rotations as classes.
    """
    data = read_folders(path)
    turns = range(4 if rotations else 1)
    return FewShot(
        name="omniglot",
        data=_rotated(data) if rotations else data,
        classes=_partition(len(data.names), turns, fractions, seed),
        ways=ways,
        shots=shots,
        queries=queries,
    )


def read_folders(path: str | Path) -> LabelledImages:
    """Every image below a path as one uint8 tensor (n, 1, 28, 28), strokes near 255.

    Classes are the folders that hold images, in the order of their names.

    Args:
        path: a folder, or a zip archive of one.

    Raises:
        ValueError: there is neither; no images in it; unreadable ones, each named with
            its reason; images of different sizes.
    """
    path = Path(path)
    files = _files(path)
    if not files:
        raise ValueError(
            f"{path} has no PNG files: give the folder that holds {LAYOUT}"
        )
    folders = [str(name.parent) for name, _ in files]
    names = tuple(sorted(set(folders)))
    numbers = {folder: number for number, folder in enumerate(names)}
    labels = torch.tensor([numbers[folder] for folder in folders])
    return LabelledImages(torch.stack(_images(path, files)), labels, names, str(path))


def _images(path: Path, files: Files) -> list[Tensor]:
    """Every file as an image (1, 28, 28); ValueError unless all can be used."""
    images, unreadable = [], []
    sizes: dict[tuple[int, int], PurePosixPath] = {}
    for name, read in files:
        try:
            image, size = _image(read())
        except Exception as error:  # of as many types as files can be broken
            unreadable.append(f"{name} ({error})")
            continue
        images.append(image)
        sizes.setdefault(size, name)
    if unreadable:
        raise ValueError(
            f"{len(unreadable)} of {len(files)} images in {path} are unreadable: "
            f"{_first(unreadable, 10)}: restore or remove them"
        )
    if len(sizes) > 1:
        shown = [f"{w}x{h} ({name})" for (w, h), name in sizes.items()]
        raise ValueError(
            f"the images in {path} have different sizes: {_first(shown, 3)}: bring "
            "them to one"
        )
    return images


def _files(path: Path) -> Files:
    """The PNG files at a path: their names within it, and how to read them."""
    readers: dict[PurePosixPath, Callable[[], bytes]]
    if path.is_dir():
        readers = {
            PurePosixPath(file.relative_to(path).as_posix()): file.read_bytes
            for file in path.rglob("*")
            if not file.is_dir()
        }
    elif path.is_file() and zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        readers = {
            PurePosixPath(info.filename): partial(archive.read, info)
            for info in archive.infolist()
            if not info.is_dir()
        }
    else:
        what = "is neither" if path.exists() else "does not exist"
        raise ValueError(
            f"omniglot needs a folder or a zip archive of one, but {path} {what}: give "
            f"the path of images laid out as {LAYOUT}"
        )
    # Names with a dot first are the operating system's own.
    return [
        (name, readers[name])
        for name in sorted(readers)
        if name.suffix.lower() == ".png" and not name.name.startswith(".")
    ]


def _first(items: list[str], most: int) -> str:
    return "; ".join(items[:most] + ["…"] * (len(items) > most))


def _image(raw: bytes) -> tuple[Tensor, tuple[int, int]]:
    """One image (1, 28, 28), uint8, with dark strokes made bright; its first size."""
    # Only who reads images of his own needs Pillow.
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(raw)) as image:
            small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            size = image.size
    except UnidentifiedImageError:
        # Its own message names a buffer in memory.
        raise ValueError("not an image") from None
    pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
    return 255 - pixels.view(1, SIDE, SIDE), size


def _rotated(data: LabelledImages) -> LabelledImages:
    """Class c turned by r quarters is class r C + c, of C classes."""
    count, quarters = len(data.names), range(4)
    return LabelledImages(
        torch.cat([data.images.rot90(r, (-2, -1)) for r in quarters]),
        torch.cat([data.labels + r * count for r in quarters]),
        data.names + tuple(f"{n} at {90 * r}°" for r in (1, 2, 3) for n in data.names),
        data.source,
    )


def _partition(
    count: int, turns: range, fractions: tuple[float, float], seed: int
) -> dict[SplitName, list[int]]:
    """Characters into splits, each with all its turns."""
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    first, second = (int(count * f) for f in fractions)
    train, val, test = shuffled.tensor_split([first, first + second])
    parts: dict[SplitName, Tensor] = {"train": train, "val": val, "test": test}
    return {
        name: torch.cat([part + r * count for r in turns]).tolist()
        for name, part in parts.items()
    }
