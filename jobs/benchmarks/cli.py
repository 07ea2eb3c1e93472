"""Where a job's tables go."""

import argparse
from pathlib import Path


def folder(text: str) -> Path:
    """A folder that can be written, made where needed; the type of a flag."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / ".probe").touch()
        (path / ".probe").unlink()
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{text} cannot be written ({error.strerror}): give another folder"
        ) from None
    return path
