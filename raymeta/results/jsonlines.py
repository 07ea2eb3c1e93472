"""A file of JSON lines, which one process appends to and others read along."""

import json
import os
from pathlib import Path
from typing import Any, BinaryIO


class JsonLines:
    """Records in the order in which they were appended.

    A line is one system call, so a killed process leaves whole lines. Half a line, as a
    crashed machine may leave it, is no record, and goes before the next is appended.

    Args:
        path: the file, which the first record creates.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0
        self._file: BinaryIO | None = None

    def append(self, record: Any) -> None:
        """Append a record, or raise OSError and append nothing: a disk may be full."""
        if self._file is None:
            self._file = _open(self._path)
        line = json.dumps(record).encode() + b"\n"
        place = self._file.seek(0, os.SEEK_END)
        try:
            written = self._file.write(line)
            if written < len(line):
                # The disk takes as much as fits, and refuses the next write.
                self._file.write(line[written:])
        except OSError:
            self._file.truncate(place)
            raise

    def read(self) -> list[Any]:
        """All records. NaN and infinity are written as Python does."""
        self._read = 0
        return self.read_new()

    def read_new(self) -> list[Any]:
        """The records since the last time."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        self._read += len(whole) + bool(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def close(self) -> None:
        """Append nothing more."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _open(path: Path) -> BinaryIO:
    """The file, without the half line that would spoil the next."""
    file = path.open("a+b", buffering=0)
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    return file
