"""One driver at a time for a folder on an object store, where no file can be locked."""

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

#: Under the folder, a claim of each driver.
CLAIMS = ".drivers"


class HeldError(ValueError):
    """Another driver is alive."""


class Lease:
    """The claim of this process on a folder: an object that it writes again and again.

    Who claims, looks for claims of others, after its own is there; of two drivers that
    begin at once, at least one sees the other, and gives up. Ages are differences of
    times that the store itself has noted, so no clocks of two machines are compared.

    A claim is deleted by others only when it is `EXPIRY_S` old. Its driver takes half
    of that for a silence, and never writes a claim again after one: who was about to
    delete it would not see the beat, and both would go on. It writes another claim
    instead, and then looks. Where the old one is still there, and nobody else's is, no
    one has taken over, and whoever comes now sees the new one. Otherwise this driver
    yields, even to one that only waits: which of two was silent is known, which is the
    younger would have to be agreed.

    Args:
        store: the object store.
        root: of the folder there.
        kind: of the job, for the message.

    Raises:
        HeldError: another driver is alive.
    """

    def __init__(self, store: fs.FileSystem, root: str, kind: str) -> None:
        self._store, self._folder = store, f"{root}/{CLAIMS}"
        self._path = self._another()
        self._written = {self._path}
        #: When the last beat began.
        self._beaten = _now()
        self._lost = False
        self._lock = threading.Lock()
        self._over = threading.Event()
        try:
            self._wait_until_alone(f"{kind} in {root}")
        except BaseException:
            self._withdraw()
            raise
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)
        self._thread.start()

    def lasts(self) -> bool:
        """Whether the folder is still this driver's; asks the store after a silence.

        True leaves half of `EXPIRY_S` to end what is begun now.

        Raises:
            OSError: the store is away.
        """
        with self._lock:
            while not self._lost and _silent(self._beaten):
                self._return()
            return not self._lost

    def release(self) -> None:
        """Let others have the folder."""
        self._over.set()
        self._thread.join()
        self._withdraw()

    def _wait_until_alone(self, what: str) -> None:
        first: dict[str, int] = {}
        while others := self._others():
            for path, beat in others.items():
                if first.setdefault(path, beat) != beat and (who := self._words(path)):
                    raise HeldError(
                        f"one driver at a time runs the {what}, but {who} is at it: "
                        "wait for it, or use another name"
                    )
            time.sleep(LOOK_S)

    def _others(self) -> dict[str, int]:
        """Beat, and the last beats of others that may be alive; removes dead claims.

        Nothing is held yet: who was silent begins anew.
        """
        while True:
            if _silent(self._beaten):
                self._withdraw()
                self._path = self._another()
            self._beaten = self._write(self._path)
            beats = self._claims()
            if self._path in beats:
                break
            self._path = self._another()  # another driver took this one for dead
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
            self._yield()  # whatever the clocks say: a paused machine's stand still
        elif _silent(self._beaten):
            self._return()
        else:
            begun = self._write(self._path)
            if _silent(self._beaten):
                self._yield()  # it may have been deleted before it was written
            self._beaten = begun

    def _return(self) -> None:
        """Go on after a silence, if nobody has taken over."""
        another = self._another()
        begun = self._write(another)
        claims = self._claims()
        if self._path not in claims or not claims.keys() <= self._written:
            self._yield()
            return
        self._path, self._beaten = another, begun
        for old in claims.keys() - {another}:
            self._delete(old)

    def _yield(self) -> None:
        self._lost = True
        self._withdraw()

    def _another(self) -> str:
        return f"{self._folder}/{secrets.token_hex(8)}"

    def _claims(self) -> dict[str, int]:
        """The last beat of each claim, by the store's clock."""
        found = self._store.get_file_info(
            fs.FileSelector(self._folder, allow_not_found=True)
        )
        return {
            claim.path: claim.mtime_ns
            for claim in found
            if claim.type == fs.FileType.File
        }

    def _write(self, path: str) -> tuple[float, float]:
        """Write a claim; returns when that began."""
        who = {"host": socket.gethostname(), "process": os.getpid()}
        self._written.add(path)
        begun = _now()
        with self._store.open_output_stream(path) as stream:
            stream.write(json.dumps(who).encode())
        return begun

    def _withdraw(self) -> None:
        with suppress(OSError):
            for path in self._written:
                self._delete(path)

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._store.delete_file(path)

    def _words(self, path: str) -> str | None:
        """Whose claim it is; None where it has just been given up."""
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
