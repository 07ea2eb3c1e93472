"""The journal of a comparison: every trial that started, everything that was said."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raymeta.results import schema
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
        lines = self._file.read().splitlines()
        return schema.current_events(json.loads(line) for line in lines)


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Open a journal, creating it where needed, and lock it.

    Raises:
        ValueError: another process has locked it.
    """
    with path.open("a+b", buffering=0) as file:
        lock(file, "a comparison")
        journal, mark = Journal(file), json.dumps(schema.EVENT).encode()
        if mark not in _whole_lines(file):
            journal.write(schema.EVENT)
        yield journal


def _whole_lines(file: Any) -> list[bytes]:
    """All lines; a crashed machine may have left half a line, which is dropped."""
    file.seek(0)
    content = file.read()
    file.truncate(content.rfind(b"\n") + 1)
    return content.splitlines()
