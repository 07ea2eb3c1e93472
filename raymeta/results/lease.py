"""Lease of a folder on an object store, where no file can be locked: one driver."""

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress

import pyarrow.fs as fs

BEAT_S = 5.0
#: Without a beat for so long, a driver counts as dead.
EXPIRY_S = 30.0
LOOK_S = 1.0

#: Under the folder, a heartbeat of each driver.
HEARTBEATS = ".drivers"


class LockedError(ValueError):
    """Another driver is alive."""


class Lease:
    """A lock on a folder by a heartbeat: an object that its driver writes repeatedly.

    Who wants it looks for heartbeats of others, after its own is there; of two drivers
    that begin at once, at least one sees the other, and gives up. Ages are differences
    of times that the store itself has noted: no clocks of two machines are compared.

    A heartbeat is deleted by others only when it is `EXPIRY_S` old. Its driver takes
    half of that for a silence, and never writes the same one again after it: who was
    about to delete it would not see the beat, and both would go on. It writes another
    one instead, and then looks. Where the old one is still there, and nobody else's is,
    no one has taken over, and whoever comes now sees the new one. Otherwise this driver
    gives up, even for one that only waits: which of two was silent is known, which is
    the younger would have to be agreed.

    Args:
        store: the object store.
        root: path of the folder there.
        kind: the kind of run, for the message.

    Raises:
        LockedError: another driver is alive.
    """

    def __init__(self, store: fs.FileSystem, root: str, kind: str) -> None:
        self._store, self._folder = store, f"{root}/{HEARTBEATS}"
        self._path = self._new_path()
        self._written = {self._path}
        #: When the last beat began.
        self._beaten = _now()
        self._lost = False
        self._lock = threading.Lock()
        self._over = threading.Event()
        try:
            self._wait_until_alone(f"{kind} in {root}")
        except BaseException:
            self._delete_own()
            raise
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)
        self._thread.start()

    def is_held(self) -> bool:
        """Whether the folder is still this driver's; asks the store after a silence.

        True leaves half of `EXPIRY_S` to end what is begun now.

        Raises:
            OSError: the store is away.
        """
        with self._lock:
            while not self._lost and _silent(self._beaten):
                self._resume()
            return not self._lost

    def release(self) -> None:
        """Let others have the folder."""
        self._over.set()
        self._thread.join()
        self._delete_own()

    def _wait_until_alone(self, what: str) -> None:
        first: dict[str, int] = {}
        while others := self._others():
            for path, beat in others.items():
                if first.setdefault(path, beat) != beat and (who := self._words(path)):
                    raise LockedError(
                        f"one driver at a time runs the {what}, but {who} is at it: "
                        "wait for it, or use another name"
                    )
            time.sleep(LOOK_S)

    def _others(self) -> dict[str, int]:
        """Beat, and the last beats of others that may be alive; removes dead ones.

        Nothing is held yet: who was silent begins anew.
        """
        while True:
            if _silent(self._beaten):
                self._delete_own()
                self._path = self._new_path()
            self._beaten = self._write(self._path)
            beats = self._heartbeats()
            if self._path in beats:
                break
            self._path = self._new_path()  # another driver took this one for dead
        now = beats[self._path]
        others = {p: beat for p, beat in beats.items() if p not in self._written}
        for path in [p for p, beat in others.items() if now - beat > EXPIRY_S * 1e9]:
            del others[path]
            self._delete(path)
        return others

    def _keep_beating(self) -> None:
        while not (self._over.wait(BEAT_S) or self._lost):
            with suppress(OSError), self._lock:  # a store may be away for a moment
                self._beat()

    def _beat(self) -> None:
        there = self._store.get_file_info(self._path).type == fs.FileType.File
        if not there:
            self._give_up()  # whatever the clocks say: a paused machine's stand still
        elif _silent(self._beaten):
            self._resume()
        else:
            begun = self._write(self._path)
            if _silent(self._beaten):
                self._give_up()  # it may have been deleted before it was written
            self._beaten = begun

    def _resume(self) -> None:
        """Go on after a silence, if nobody has taken over."""
        another = self._new_path()
        begun = self._write(another)
        beats = self._heartbeats()
        if self._path not in beats or not beats.keys() <= self._written:
            self._give_up()
            return
        self._path, self._beaten = another, begun
        for old in beats.keys() - {another}:
            self._delete(old)

    def _give_up(self) -> None:
        self._lost = True
        self._delete_own()

    def _new_path(self) -> str:
        return f"{self._folder}/{secrets.token_hex(8)}"

    def _heartbeats(self) -> dict[str, int]:
        """The last beat of each driver, by the store's clock."""
        found = self._store.get_file_info(
            fs.FileSelector(self._folder, allow_not_found=True)
        )
        return {
            beat.path: beat.mtime_ns for beat in found if beat.type == fs.FileType.File
        }

    def _write(self, path: str) -> tuple[float, float]:
        """Write a heartbeat; returns when that began."""
        who = {"host": socket.gethostname(), "process": os.getpid()}
        self._written.add(path)
        begun = _now()
        with self._store.open_output_stream(path) as stream:
            stream.write(json.dumps(who).encode())
        return begun

    def _delete_own(self) -> None:
        with suppress(OSError):
            for path in self._written:
                self._delete(path)

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._store.delete_file(path)

    def _words(self, path: str) -> str | None:
        """Whose heartbeat it is; None where it has just been given up."""
        try:
            with self._store.open_input_stream(path) as stream:
                who = json.loads(stream.read())
        except FileNotFoundError:
            return None
        return f"process {who['process']} on {who['host']}"


def _now() -> tuple[float, float]:
    """The clock that stands still while the machine sleeps, and one that can be set."""
    return time.monotonic(), time.time()


def _silent(beaten: tuple[float, float]) -> bool:
    passed = (now - then for now, then in zip(_now(), beaten, strict=True))
    return max(passed) > EXPIRY_S / 2
