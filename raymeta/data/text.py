"""English text that ships with scikit-learn."""

from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor


def text(path: str | Path | None = None) -> str:
    """The text of a file; by default scikit-learn's descriptions of its data sets.

    These are its files `datasets/descr/*.rst`, one after the other by name: 43,054
    characters in version 1.9 (BSD-3-Clause).

    Args:
        path: a text file in UTF-8.

    Raises:
        ValueError: the file cannot be read as such.
    """
    if path is None:
        # Its own resources: reading them imports no more than its first package.
        folder = files("sklearn").joinpath("datasets", "descr")
        found = sorted((f for f in folder.iterdir()), key=lambda f: f.name)
        pages = [f.read_text("utf-8") for f in found if f.name.endswith(".rst")]
        return "\n".join(pages)
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text: {error}") from None


def passages(text: str, length: int) -> tuple[Tensor, Tensor, str]:
    """A text cut into passages that do not overlap, to predict each next character.

    Args:
        text: at least length + 1 characters.
        length: L, characters of a passage.

    Returns:
        Inputs (n, L) and targets (n, L), the same one character later: numbers of
        characters, int64; and the characters by number.

    Raises:
        ValueError: the text is too short.
    """
    count = (len(text) - 1) // length
    if count < 1:
        raise ValueError(
            f"passages of {length} characters need a text of {length + 1}, but got one "
            f"of {len(text)}: give a longer text or a smaller length"
        )
    characters = "".join(sorted(set(text)))
    number = {character: i for i, character in enumerate(characters)}
    encoded = torch.tensor([number[c] for c in text[: count * length + 1]])
    inputs, targets = encoded[:-1], encoded[1:]
    return inputs.view(count, length), targets.view(count, length), characters
