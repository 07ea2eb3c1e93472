"""A file of JSON lines, which one process appends to and others read along."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from raymeta.results.atomic import atomic_write
from raymeta.results.integrity import (
    CHECKSUM,
    EMPTY,
    OTHER,
    DamagedFile,
    is_whole,
    newer,
    with_checksum,
)
from raymeta.results.mirror import address
from raymeta.results.schema import KEY, VERSION

Record = dict[str, Any]

#: The first line of each file, in every version that has a version.
HEADER: Record = {"event": KEY, "version": VERSION}


class JsonLines:
    """Records in the order in which they were appended.

    A line is one system call, so a killed process leaves whole lines. Half a line, as a
    crashed machine may leave it, is no record; nor is a line whose checksum is not that
    of its content, or what follows that. Before the next is appended they are kept in a
    file beside, `<name>.torn`.

    Args:
        path: the file, which the first record creates.

    Attributes:
        damage: why records are missing, in a line for people; "" where none is.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._read, self._line = path, 0, 0
        self._file: BinaryIO | None = None
        self._older = False
        self.damage = ""

    def begin(self) -> None:
        """Make it ready for the next record: what is no record goes beside.

        Raises:
            DamagedFile: it is no file of ours, and stays as it is.
            ValueError: it is of an older version.
        """
        if self._file is not None:
            return
        self.read_new()  # only what was not read yet: a journal is long
        if self._older:
            raise ValueError(
                f"{address(self._path)} was begun by an older raymeta, whose journals "
                "this one cannot continue: finish it with that version, or use another "
                "name"
            )
        self._file = self._path.open("a+b", buffering=0)
        self._file.seek(self._read)
        if torn := self._file.read():
            beside = _free(self._path)
            with atomic_write(beside) as file:
                file.write(torn)
            self.damage = (
                f"{self.damage or self._said('is cut short')}; from there on the file "
                f"is kept as {beside.name}"
            )
            self._file.truncate(self._read)
        if not self._read:
            self._write(HEADER)

    def append(self, record: Mapping[str, Any]) -> None:
        """Append a record, or raise OSError and append nothing: a disk may be full."""
        self.begin()
        self._write(record)

    def read(self) -> list[Record]:
        """All records. NaN and infinity are written as Python does.

        Raises:
            DamagedFile: it is no file of ours.
        """
        self._read = self._line = 0
        self.damage = ""
        return self.read_new()

    def read_new(self) -> list[Record]:
        """The records since the last time."""
        if not self._path.exists():
            return []
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                content = file.read()
        except OSError as error:
            reason = f"reading it fails ({error.strerror})"
            raise DamagedFile(self._path, reason) from None
        *lines, rest = content.split(b"\n")
        found: list[Record] = []
        for line in lines:
            if (record := self._understood(line)) is None:
                return found
            self._read, self._line = self._read + len(line) + 1, self._line + 1
            if self._line > 1 or record.get("event") != KEY:
                found.append(record)
        if rest and not self._line:
            self._require_header(rest)
        return found

    def close(self) -> None:
        """Append nothing more."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, record: Mapping[str, Any]) -> None:
        assert self._file is not None
        line = line_of(record)
        place = self._file.seek(0, os.SEEK_END)
        try:
            written = self._file.write(line)
            if written < len(line):
                # The disk takes as much as fits, and refuses the next write.
                self._file.write(line[written:])
        except OSError as error:
            with suppress(OSError):  # nor this, where nothing can be written
                self._file.truncate(place)
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def _understood(self, line: bytes) -> Record | None:
        """The record of a line; None where it is damaged, which is noted."""
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            record = None
        if not self._line:
            self._look_at_first(line, record)
        if record is not None and (self._older or is_whole(line)):
            record.pop(CHECKSUM, None)
            return record
        self.damage = self._said("is not as it was written")
        return None

    def _said(self, reason: str) -> str:
        return (
            f"{address(self._path)}, line {self._line + 1}, {reason}: what was before "
            "it counts, and the rest is done again"
        )

    def _look_at_first(self, line: bytes, first: Record | None) -> None:
        """Tell the file of ours, of older and of newer versions from any other.

        Raises:
            DamagedFile: it is of a newer version, or not ours.
        """
        if first is None or not isinstance(first.get("event"), str):
            raise DamagedFile(self._path, "line 1 is not one of raymeta", OTHER)
        version = first.get("version", 0) if first["event"] == KEY else 0
        if reason := newer(version):
            raise DamagedFile(self._path, reason, "read it with that version")
        whole = is_whole(line)
        self._older = whole is None and version < 2
        if not whole and not self._older:
            reason = "the checksum of line 1 is not that of its content"
            raise DamagedFile(self._path, reason, OTHER)

    def _require_header(self, begun: bytes) -> None:
        """Half of a first line is that of a file of ours that a crash cut short."""
        if not line_of(HEADER).startswith(begun):
            raise DamagedFile(self._path, "line 1 is not one of raymeta", OTHER)


def line_of(record: Mapping[str, Any]) -> bytes:
    """A record as a line with its checksum."""
    text = json.dumps({**record, CHECKSUM: "0" * 8})
    assert text.endswith(EMPTY.decode() + "}")
    return with_checksum(text.encode()) + b"\n"


def _free(path: Path) -> Path:
    """A name beside the file that is not taken."""
    beside, count = path.with_name(f"{path.name}.torn"), 1
    while beside.exists():
        count += 1
        beside = path.with_name(f"{path.name}.torn-{count}")
    return beside
