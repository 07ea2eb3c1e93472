"""Mirror of a folder on an object store: a local one that is kept the same.

Everything that writes results writes files in a folder. On shared storage all nodes see
that folder. With `s3://bucket/results` (or `gs://…`) each process has a local one: what
it writes goes up, and what it asks for comes down. No file has two writers, so nothing
has to be merged.
"""

import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import pyarrow.fs as fs

from raymeta.results.lease import HEARTBEATS, Lease, LockedError
from raymeta.results.refusals import refusals, require_no_keys
from raymeta.results.segments import GrowingFile, file_of, grows
from raymeta.results.whole_file import WholeFile

SYNC_EVERY_S = 2.0

#: Patterns of names.
Names = Sequence[str]
ALL = ("*",)

#: Files of a process alone.
_OWN = re.compile(
    rf"(^|/)(\.lock$|\.tune/|\.ray/|\.states/|{re.escape(HEARTBEATS)}/)|\.tmp$"
)

_mirrors: list["Mirror"] = []


class TakenOverError(LockedError):
    """Another driver has the folder that this one held."""


def is_remote(storage: str | Path) -> bool:
    """Whether it is an address on an object store."""
    return "://" in str(storage)


class Mirror:
    """A local folder and its like on an object store.

    Args:
        uri: address of the folder there.
        local: the folder here.
        follow: what others write and `sync` downloads; `*` stands for slashes, too.

    Raises:
        ValueError: the store cannot be reached, or refuses.
    """

    def __init__(self, uri: str, local: Path, *, follow: Names = ()) -> None:
        require_no_keys(uri)
        self.uri, self.local, self._follow = uri.rstrip("/"), local, follow
        self._busy = threading.Lock()
        #: What was the same on both sides: size and time of change here; and there.
        self._here: dict[str, tuple[int, int]] = {}
        self._there: dict[str, WholeFile | GrowingFile] = {}
        self._lease: Lease | None = None
        self._refused = False
        with refusals(self.uri):
            self._fs, self._root = fs.FileSystem.from_uri(self.uri)

    def sync(self) -> None:
        """Upload what has changed here, download what is followed and changed there.

        Raises:
            ValueError: the store cannot be reached, or refuses.
            TakenOverError: another driver has taken over.
        """
        with self._busy, refusals(self.uri):
            if self._ours():
                self._push()
                self._pull(self._follow)

    def fetch(self, names: Names = ALL) -> None:
        """Download what is there, or has changed since; raises as `sync` does.

        Args:
            names: patterns of what is asked for.
        """
        with self._busy, refusals(self.uri):
            self._pull(names)

    def lock(self, kind: str) -> None:
        """Let no other driver write in the folder until `release`.

        What the one before wrote last is here then.

        Raises:
            ValueError: another one does; then this mirror uploads nothing any more.
        """
        with self._busy, refusals(self.uri):
            self._refused = True
            self._lease = Lease(self._fs, self._root, kind)
            self._pull(ALL)
            self._refused = False

    def release(self) -> None:
        """Let others have the folder."""
        if self._lease is not None:
            self._lease.release()

    def _ours(self) -> bool:
        """Whether this process may write in the folder now."""
        if self._lease is not None and not self._lease.is_held():
            raise TakenOverError(
                f"this driver was silent for so long that another one has taken over "
                f"{self.uri}: leave it to that one, or use another name"
            )
        return not self._refused

    def push(self, path: Path) -> None:
        """Upload one file now, if it has changed; raises as `sync` does."""
        with self._busy, refusals(self.uri):
            self._upload(path.relative_to(self.local).as_posix())

    def pull(self, path: Path) -> None:
        """Download one file now, if it is there and has changed."""
        name = path.relative_to(self.local).as_posix()
        with self._busy, refusals(self.uri):
            self._download(name)

    def files(self, folder: Path) -> list[Path]:
        """The files of a folder there."""
        name = folder.relative_to(self.local).as_posix()
        with refusals(self.uri):
            found = self._fs.get_file_info(
                fs.FileSelector(f"{self._root}/{name}", allow_not_found=True)
            )
        files = [info for info in found if info.type == fs.FileType.File]
        return [folder / file_of(info.base_name)[0] for info in files]

    def delete(self, path: Path) -> None:
        """Delete one file there; raises as `sync` does."""
        name = path.relative_to(self.local).as_posix()
        with self._busy, refusals(self.uri):
            self._here.pop(name, None)
            self._delete(name)

    def discard(self, folder: Path) -> None:
        """Delete a folder there; raises as `sync` does."""
        name = folder.relative_to(self.local).as_posix()
        with self._busy, refusals(self.uri):
            place = f"{self._root}/{name}"
            there = self._fs.get_file_info(place).type == fs.FileType.Directory
            if there and self._ours():
                self._fs.delete_dir(place)

    def _push(self) -> None:
        files = [path for path in self.local.rglob("*") if path.is_file()]
        names = {path.relative_to(self.local).as_posix() for path in files}
        for name in sorted(names):
            if not _OWN.search(name):
                self._upload(name)
        for name in set(self._here) - names:  # deleted here
            del self._here[name]
            if name in self._there:
                self._delete(name)

    def _pull(self, wanted: Names) -> None:
        if not wanted:
            return
        found: dict[str, dict[int, fs.FileInfo]] = {}
        for info in self._fs.get_file_info(
            fs.FileSelector(self._root, recursive=True, allow_not_found=True)
        ):
            name, begin = file_of(info.path.removeprefix(f"{self._root}/"))
            if info.type == fs.FileType.File and _is_one(name, wanted):
                found.setdefault(name, {})[begin] = info
        for name, objects in found.items():
            self._download(name, objects)
        for name in self._there.keys() - found.keys():  # deleted there
            if _is_one(name, wanted):
                del self._there[name]
                self._here.pop(name, None)
                (self.local / name).unlink(missing_ok=True)

    def _upload(self, name: str) -> None:
        try:
            file = (self.local / name).open("rb")
        except FileNotFoundError:  # deleted meanwhile
            return
        with file:
            now, there = _version(file.fileno()), self._like(name)
            if now != self._here.get(name) and self._ours():
                there.send(file)
                self._here[name], self._there[name] = now, there

    def _download(self, name: str, found: dict[int, fs.FileInfo] | None = None) -> None:
        there = self._like(name)
        if there.fetch(self.local / name, found):
            self._here[name] = _version(self.local / name)
            self._there[name] = there

    def _delete(self, name: str) -> None:
        """Delete a file there."""
        if self._ours():
            self._like(name).delete()
            self._there.pop(name, None)

    def _like(self, name: str) -> WholeFile | GrowingFile:
        kind = GrowingFile if grows(name) else WholeFile
        return self._there.get(name) or kind(self._fs, f"{self._root}/{name}")


class _NotUploadedError(ValueError):
    """The store has not got everything."""


@contextmanager
def at(
    storage: str | Path, name: str = "", *, fetch: Names = ALL, follow: Names = ()
) -> Iterator[Path]:
    """The folder that holds the results, as a local one.

    On an object store it has what is there when it is opened; what is written in it
    goes there.

    Args:
        storage: a folder, which is yielded as it is, or the address of one on an object
            store.
        name: name of the only folder in it that matters, where there is one.
        fetch: patterns of the files that are here at once; others when they are asked
            for, see `download` and `files`.
        follow: patterns of the files that others write meanwhile and that come by
            themselves.

    Raises:
        ValueError: the store cannot be reached, or refuses, or another driver has
            taken over; what it has not got by the end stays where the message says.
    """
    if not is_remote(storage):
        yield Path(storage)
        return
    scratch = Path(tempfile.mkdtemp(prefix="raymeta-"))
    (scratch / name).mkdir(exist_ok=True)
    uploaded = True
    try:
        uri = f"{str(storage).rstrip('/')}/{name}"
        mirror = Mirror(uri, scratch / name, follow=follow)
        mirror.fetch(fetch)
        with _mirrored(mirror):
            yield scratch
    except _NotUploadedError:
        uploaded = False
        raise
    finally:
        if uploaded:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def local(place: str) -> Iterator[Path]:
    """A file or folder of results as a local one; raises as `at` does."""
    if not is_remote(place):
        yield Path(place)
        return
    storage, _, name = place.rstrip("/").rpartition("/")
    with at(storage, name) as here:
        yield here / name


def _interrupt(thread: int) -> None:
    """As Ctrl-C does it, also where threads cannot be signalled (Windows)."""
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGINT)
    else:
        signal.pthread_kill(thread, signal.SIGINT)


@contextmanager
def _mirrored(mirror: Mirror) -> Iterator[None]:
    """Keep a mirror in step from a thread, and at the end.

    A driver that another one has followed is interrupted as by Ctrl-C.
    """
    over = threading.Event()
    # Only the main thread hears signals; others hear of it when they upload next.
    main = threading.main_thread().ident
    assert main is not None
    hears = threading.get_ident() == main

    def keep_in_step() -> None:
        while not over.wait(SYNC_EVERY_S):
            try:
                mirror.sync()
            except TakenOverError:
                if hears and not over.is_set():
                    _interrupt(main)
                return
            except ValueError:
                continue  # a store may be away for a moment; the last time counts

    thread = threading.Thread(target=keep_in_step, daemon=True)
    thread.start()
    _mirrors.append(mirror)
    try:
        yield
    finally:
        over.set()
        thread.join()
        _mirrors.remove(mirror)
        try:
            mirror.sync()
        except ValueError as error:
            raise _NotUploadedError(
                f"{error}; what was not uploaded is in {mirror.local}"
            ) from None
        finally:
            mirror.release()


def lock(folder: Path, kind: str) -> None:
    """Let no other driver write in a folder on an object store, until it is left.

    Args:
        folder: the local one.
        kind: the kind of run, for the message.

    Raises:
        ValueError: another one does.
    """
    if mirror := _mirror_of(folder):
        mirror.lock(kind)


def address(path: Path) -> str:
    """Where others find it: the path itself, or that of its like on an object store."""
    mirror = _mirror_of(path)
    if mirror is None:
        return str(path)
    return f"{mirror.uri}/{path.relative_to(mirror.local).as_posix()}".rstrip("/.")


def upload(path: Path) -> None:
    """Make sure that others see a file that was just written."""
    if mirror := _mirror_of(path):
        mirror.push(path)


def download(path: Path) -> Path:
    """The path, where the file that another process wrote last is now."""
    if mirror := _mirror_of(path):
        mirror.pull(path)
    return path


def files(folder: Path) -> list[Path]:
    """The files of a folder, whether they have been downloaded or not, in order."""
    found = {path for path in folder.glob("*") if path.is_file()}
    if mirror := _mirror_of(folder):
        found.update(mirror.files(folder))
    return sorted(path for path in found if not _OWN.search(path.name))


def delete(path: Path) -> None:
    """Delete a file, here and there."""
    path.unlink(missing_ok=True)
    if mirror := _mirror_of(path):
        mirror.delete(path)


def discard(folder: Path) -> None:
    """Delete a folder, here and there."""
    shutil.rmtree(folder, ignore_errors=True)
    if mirror := _mirror_of(folder):
        mirror.discard(folder)


def sync(path: Path) -> None:
    """Make sure that a folder is the same as its like."""
    if mirror := _mirror_of(path):
        mirror.sync()


def _mirror_of(path: Path) -> Mirror | None:
    return next((m for m in _mirrors if path.is_relative_to(m.local)), None)


def _is_one(name: str, wanted: Names) -> bool:
    """Whether a file of others is asked for."""
    asked = any(fnmatchcase(name, pattern) for pattern in wanted)
    return asked and not _OWN.search(name)


def _version(file: Path | int) -> tuple[int, int]:
    stat = os.stat(file)
    return stat.st_size, stat.st_mtime_ns
