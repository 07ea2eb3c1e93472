"""Segments of growing files on an object store, where nothing can be appended.

The object `journal.jsonl` has the beginning of the file of that name here, and
`journal.jsonl.from-000001048576` what begins at that byte. Joined in the order of their
names they are the file; one that was sent as a whole has one segment. Only the last is
ever sent again, while it is less than half of `SEGMENT_BYTES`.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import pyarrow.fs as fs

from raymeta.results.atomic import atomic_write

SEGMENT_BYTES = 1 << 20

_LATER = re.compile(r"(?P<file>.+\.(?:jsonl|log))\.from-(?P<begin>\d{12})")


def grows(name: str) -> bool:
    """Whether a file of this name is only ever appended to."""
    return name.endswith((".jsonl", ".log"))


def file_of(name: str) -> tuple[str, int]:
    """Name of the file that an object is of, and the byte where it begins in that."""
    later = _LATER.fullmatch(name)
    return (later["file"], int(later["begin"])) if later else (name, 0)


def join_segments(folder: Path) -> None:
    """Put files together in a folder that was copied from an object store as it is."""
    for path in sorted(folder.rglob("*.from-*")):
        name, begin = file_of(str(path))
        if begin and Path(name).is_file() and Path(name).stat().st_size >= begin:
            with Path(name).open("r+b") as file:
                file.truncate(begin)
                file.seek(begin)
                file.write(path.read_bytes())
            path.unlink()


class GrowingFile:
    """A file that grows, here or there, and how much of it is the same on both sides.

    Whatever ends a process, what is there is the file as it was at some time: a segment
    counts when those before it reach to where it begins, and later ones are sent first.

    Args:
        store: the object store.
        place: path of its first segment there.
    """

    def __init__(self, store: fs.FileSystem, place: str) -> None:
        self._store, self._place = store, place
        #: Begin and size of the segments there; None before anybody has looked.
        self._sizes: dict[int, int] | None = None
        #: The file here, and its bytes that are the same there, without half a line.
        self._inode, self._same = 0, 0

    def send(self, file: IO[bytes]) -> None:
        """Upload what has been appended here; whole lines only."""
        there = self._found() if self._sizes is None else self._sizes
        length, stat = sum(there.values()), os.fstat(file.fileno())
        known = stat.st_ino == self._inode and self._same == length
        kept = dict(there) if known and stat.st_size >= length else {}
        begin = sum(kept.values())
        end = self._end_of_lines(file, begin, stat.st_size)
        if kept and end == begin:
            return
        if kept and kept[max(kept)] < SEGMENT_BYTES / 2:
            begin, _ = kept.popitem()
        parts = {
            at: min(SEGMENT_BYTES, end - at)
            for at in range(begin, max(end, begin + 1), SEGMENT_BYTES)
        }
        for at, size in reversed(parts.items()):
            file.seek(at)
            with self._store.open_output_stream(self._object(at)) as stream:
                stream.write(file.read(size))
        for at in there.keys() - kept.keys() - parts.keys():
            self._delete(at)
        self._sizes = kept | parts
        self._inode, self._same = stat.st_ino, end

    def fetch(self, path: Path, found: Mapping[int, fs.FileInfo] | None = None) -> bool:
        """Download what has been appended there; returns whether it is there at all.

        Args:
            path: the file here.
            found: the objects there by where they begin, where they are known.
        """
        sizes = {begin: info.size or 0 for begin, info in (found or {}).items()}
        now = _contiguous(self._found() if found is None else sizes)
        if not now or now == self._sizes:
            return bool(now)
        before, same = self._sizes or {}, self._same
        grown = now.keys() >= before.keys() and sum(now.values()) >= same
        if same and grown and path.exists():
            with path.open("r+b") as file:
                file.truncate(same)
                file.seek(same)
                self._read(file, now, same)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                self._read(file, now, 0)
        self._sizes = now
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            self._inode = stat.st_ino
            self._same = self._end_of_lines(file, 0, stat.st_size)
        return True

    def delete(self) -> None:
        """Delete it there."""
        for begin in sorted(self._found(), reverse=True):
            self._delete(begin)
        self._sizes = None

    def _read(self, file: IO[bytes], sizes: Mapping[int, int], begin: int) -> None:
        for at, size in sizes.items():
            if at + size > begin:
                skipped = max(0, begin - at)
                with self._store.open_input_file(self._object(at)) as segment:
                    segment.seek(skipped)
                    left = size - skipped
                    while left and (data := segment.read(min(left, SEGMENT_BYTES))):
                        file.write(data)
                        left -= len(data)

    def _found(self) -> dict[int, int]:
        """Begin and size of the objects there."""
        folder, _, name = self._place.rpartition("/")
        listed = self._store.get_file_info(
            fs.FileSelector(folder, allow_not_found=True)
        )
        objects = [(file_of(info.base_name), info.size) for info in listed]
        return {begin: size or 0 for (file, begin), size in objects if file == name}

    def _end_of_lines(self, file: IO[bytes], begin: int, end: int) -> int:
        """Where the last line ends, of a file that has lines."""
        while self._place.endswith(".jsonl") and end > begin:
            start = max(begin, end - SEGMENT_BYTES)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
        return end

    def _object(self, begin: int) -> str:
        return f"{self._place}.from-{begin:012}" if begin else self._place

    def _delete(self, begin: int) -> None:
        with suppress(FileNotFoundError):
            self._store.delete_file(self._object(begin))


def _contiguous(found: Mapping[int, int]) -> dict[int, int]:
    """The segments that count."""
    sizes: dict[int, int] = {}
    end = 0
    while end in found and end not in sizes:
        sizes[end] = found[end]
        end += found[end]
    return sizes
