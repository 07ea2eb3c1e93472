"""Atomic writes: a file is the old one or the new one, never a part of either."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_write(path: Path, *, sync: bool = False) -> Iterator[IO[bytes]]:
    """Write a file aside, then move it into its place.

    Readers see the old file or the new one, whatever ends this process, and two writers
    do not mix. Where it fails, what was written aside goes: a full disk needs the room.

    Args:
        path: the file; its folder exists.
        sync: whether its bytes are on the disk before it takes its place, so that it
            outlives a crash of the machine.

    Yields:
        The file to write to.
    """
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with aside.open("x+b") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
