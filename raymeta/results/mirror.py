"""Mirror of a folder on an object store: a local one that is kept the same.

Everything that writes results writes files in a folder. On shared storage all nodes see
that folder. With `s3://bucket/results` (or `gs://…`) each process has a local one, and
`at` keeps the two the same: what a process writes goes up, what others wrote comes
down. No file has two writers, so nothing has to be merged.
"""

import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs as fs

from raymeta.results.atomic import atomic_write
from raymeta.results.lease import HEARTBEATS, Lease, LockedError

SYNC_EVERY_S = 2.0
#: Object stores note times of change in whole seconds; what may have changed again in
#: the same one is told apart by its ETag until then.
SETTLED_S = 2.0

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

    Raises:
        ValueError: the store cannot be reached, or refuses.
    """

    def __init__(self, uri: str, local: Path) -> None:
        self.uri, self.local = uri.rstrip("/"), local
        self._busy = threading.Lock()
        #: name -> (size, time of change): here, and there, when they were the same.
        self._here: dict[str, tuple[int, int]] = {}
        self._there: dict[str, tuple[int, int]] = {}
        #: name -> (ETag of what was downloaded, when its version was first seen).
        self._fresh: dict[str, tuple[bytes | None, float]] = {}
        self._lease: Lease | None = None
        self._refused = False
        with _refusals(self.uri):
            self._fs, self._root = fs.FileSystem.from_uri(self.uri)

    def sync(self) -> None:
        """Upload what has changed here, download what has changed there.

        Raises:
            ValueError: the store cannot be reached, or refuses.
            TakenOverError: another driver has taken over.
        """
        with self._busy, _refusals(self.uri):
            if self._ours():
                self._push()
                self._pull()

    def lock(self, kind: str) -> None:
        """Let no other driver write in the folder until `release`.

        What the one before wrote last is here then.

        Raises:
            ValueError: another one does; then this mirror uploads nothing any more.
        """
        with self._busy, _refusals(self.uri):
            self._refused = True
            self._lease = Lease(self._fs, self._root, kind)
            self._pull()
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
        """Upload one file now; raises as `sync` does."""
        with self._busy, _refusals(self.uri):
            self._upload(path.relative_to(self.local).as_posix())

    def pull(self, path: Path) -> None:
        """Download one file now, if it is there and has changed."""
        name = path.relative_to(self.local).as_posix()
        with self._busy, _refusals(self.uri):
            self._download(self._fs.get_file_info(f"{self._root}/{name}"), name)

    def discard(self, folder: Path) -> None:
        """Delete a folder there; raises as `sync` does."""
        name = folder.relative_to(self.local).as_posix()
        with self._busy, _refusals(self.uri):
            place = f"{self._root}/{name}"
            there = self._fs.get_file_info(place).type == fs.FileType.Directory
            if there and self._ours():
                self._fs.delete_dir(place)

    def _push(self) -> None:
        files = [path for path in self.local.rglob("*") if path.is_file()]
        names = {path.relative_to(self.local).as_posix() for path in files}
        for name in sorted(names):
            if not _OWN.search(name) and _stat(self.local / name) != self._here.get(
                name
            ):
                self._upload(name)
        for name in set(self._here) - names:  # deleted here
            del self._here[name]
            if self._there.pop(name, None) is not None and self._ours():
                self._fs.delete_file(f"{self._root}/{name}")

    def _pull(self) -> None:
        found = self._fs.get_file_info(
            fs.FileSelector(self._root, recursive=True, allow_not_found=True)
        )
        names = set()
        for info in found:
            if info.type == fs.FileType.File:
                name = info.path.removeprefix(f"{self._root}/")
                names.add(name)
                if not _OWN.search(name):
                    self._download(info, name)
        for name in set(self._there) - names:  # deleted there
            del self._there[name]
            self._here.pop(name, None)
            (self.local / name).unlink(missing_ok=True)

    def _upload(self, name: str) -> None:
        path, there = self.local / name, f"{self._root}/{name}"
        before = _stat(path)
        if before is None or not self._ours():
            return
        with self._fs.open_output_stream(there) as stream:
            stream.write(path.read_bytes())
        self._here[name] = before
        self._there[name] = _version(self._fs.get_file_info(there))
        self._fresh.pop(name, None)

    def _download(self, info: fs.FileInfo, name: str) -> None:
        version, now = _version(info), time.monotonic()
        known = self._there.get(name) == version
        if info.type != fs.FileType.File or (known and name not in self._fresh):
            return
        path = self.local / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._fs.open_input_stream(info.path) as stream:
            mark = stream.metadata().get("ETag")
            before, since = self._fresh.get(name, (None, now))
            self._fresh[name] = mark, since if known else now
            if known and now - since > SETTLED_S:
                del self._fresh[name]
            if known and mark == before:
                return
            with atomic_write(path) as file:
                file.write(stream.read())
        self._there[name], self._here[name] = version, _stat(path) or (0, 0)


class _NotUploadedError(ValueError):
    """The store has not got everything."""


@contextmanager
def at(storage: str | Path, name: str = "") -> Iterator[Path]:
    """The folder that holds the results, as a local one.

    Args:
        storage: a folder, which is yielded as it is, or the address of one on an object
            store.
        name: name of the only folder in it that matters, where there is one.

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
        with _mirrored(Mirror(uri, scratch / name)):
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


@contextmanager
def _mirrored(mirror: Mirror) -> Iterator[None]:
    """Keep a mirror in step from a thread, and at the end.

    A driver that another one has followed is interrupted as by Ctrl-C.
    """
    mirror.sync()
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
                    signal.pthread_kill(main, signal.SIGINT)
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


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:  # deleted meanwhile
        return None
    return stat.st_size, stat.st_mtime_ns


def _version(info: fs.FileInfo) -> tuple[int, int]:
    return info.size or 0, info.mtime_ns or 0


@contextmanager
def _refusals(uri: str) -> Iterator[None]:
    """What the store says, in one line."""
    try:
        yield
    except LockedError:
        raise
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())
        if "NoSuchBucket" in said or "NO_SUCH_BUCKET" in said:
            advice = "create it first"
        elif re.search(
            "Expired|ACCESS_DENIED|credentials|InvalidAccessKey", said, re.I
        ):
            advice = "renew the credentials, and let them read and write there"
        else:
            advice = "check the address and the network"
        raise ValueError(
            f"results go to {uri}, but it answers: {said}: {advice}"
        ) from None
