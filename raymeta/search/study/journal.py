"""The journal of a comparison: every trial that started, everything that was said."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raymeta.results.run_folder import lock

Event = dict[str, Any]


class Journal:
    """Append-only JSON lines, locked by one process at a time.

    A line is one system call, so a killed process leaves whole lines.
    """

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, event: Event) -> None:
        """Append an event, or raise OSError and append nothing: a disk may be full."""
        line = json.dumps(event).encode() + b"\n"
        place = self._file.seek(0, os.SEEK_END)
        try:
            written = self._file.write(line)
            if written < len(line):
                # The disk takes as much as fits, and refuses the next write.
                self._file.write(line[written:])
        except OSError:
            self._file.truncate(place)
            raise

    def read(self) -> list[Event]:
        """All events so far. NaN and infinity are written as Python does."""
        self._file.seek(0)
        return [json.loads(line) for line in self._file.read().splitlines()]


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Open a journal, creating it where needed, and lock it.

    Raises:
        ValueError: another process has locked it.
    """
    with path.open("a+b", buffering=0) as file:
        lock(file, "a comparison")
        _drop_torn_line(file)
        yield Journal(file)


def _drop_torn_line(file: Any) -> None:
    """A machine that crashed may have left half a line, which would spoil the next."""
    file.seek(0)
    content = file.read()
    file.truncate(content.rfind(b"\n") + 1)
