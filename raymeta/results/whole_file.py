"""Files that are replaced as a whole, on an object store."""

import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import pyarrow.fs as fs

from raymeta.results.atomic import atomic_write

#: Object stores note times of change in whole seconds; what may have changed again in
#: the same one is told apart by its ETag until then.
SETTLED_S = 2.0
CHUNK_BYTES = 1 << 23


class _ReplacedError(Exception):
    """An object is another one than when its download began."""


class WholeFile:
    """A file and its like on an object store.

    Args:
        store: the object store.
        place: its path there.

    Attributes:
        settled: whether its version is the last of its second.
    """

    def __init__(self, store: fs.FileSystem, place: str) -> None:
        self._store, self._place = store, place
        #: Size and time of change there, when both sides were the same.
        self._version: tuple[int, int] | None = None
        self._mark: bytes | None = None  # ETag of what was downloaded
        self._since = 0.0  # when its version was first seen
        self.settled = True

    def send(self, file: IO[bytes]) -> None:
        """Upload it."""
        with self._store.open_output_stream(self._place) as stream:
            shutil.copyfileobj(file, stream, CHUNK_BYTES)
        self._version = _version(self._store.get_file_info(self._place))
        self.settled = True

    def fetch(self, path: Path, found: Mapping[int, fs.FileInfo] | None = None) -> bool:
        """Download it if it has changed; returns whether it is there at all.

        Args:
            path: the file here.
            found: the object there, where it is known.
        """
        info = found[0] if found else self._store.get_file_info(self._place)
        version, now = _version(info), time.monotonic()
        if info.type != fs.FileType.File:
            return False
        known = self._version == version
        if known and self.settled:
            return True
        path.parent.mkdir(parents=True, exist_ok=True)
        if not known:
            self._since = now
        self.settled = known and now - self._since > SETTLED_S
        try:
            mark = self._etag()
            if not known or mark != self._mark:
                mark = self._read(path, mark)
        except FileNotFoundError:  # since it was seen
            return False
        self._version, self._mark = version, mark
        return True

    def _read(self, path: Path, mark: bytes | None) -> bytes | None:
        """Download what has one ETag from its first byte to its last; returns that.

        What is replaced meanwhile would be as long as the old one, with bytes of the
        new one.
        """
        while True:
            with suppress(_ReplacedError), atomic_write(path) as file:
                with self._store.open_input_stream(self._place) as stream:
                    shutil.copyfileobj(stream, file, CHUNK_BYTES)
                before, mark = mark, self._etag()
                if mark != before:
                    raise _ReplacedError
                return mark

    def _etag(self) -> bytes | None:
        with self._store.open_input_stream(self._place) as stream:
            return stream.metadata().get("ETag")

    def delete(self) -> None:
        """Delete it there."""
        with suppress(FileNotFoundError):
            self._store.delete_file(self._place)


def _version(info: fs.FileInfo) -> tuple[int, int]:
    return info.size or 0, info.mtime_ns or 0
