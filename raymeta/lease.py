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


class Held(ValueError):
    """Another driver is alive."""


class Lease:
    """The claim of this process on a folder: an object that it writes again and again.

    Who claims, looks for claims of others, after its own is there; of two drivers that
    begin at once, at least one sees the other, and gives up. Ages are differences of
    times that the store itself has noted, so no clocks are compared.

    Args:
        store: the object store.
        root: of the folder there.
        kind: of the job, for the message.

    Raises:
        Held: another driver is alive.
    """

    def __init__(self, store: fs.FileSystem, root: str, kind: str) -> None:
        self._store, self._folder = store, f"{root}/{CLAIMS}"
        self._path = f"{self._folder}/{secrets.token_hex(8)}"
        self._over = threading.Event()
        #: Whether another driver, which took this one for dead, has the folder now.
        self.lost = False
        try:
            self._wait_until_alone(f"{kind} in {root}")
        except BaseException:
            self._withdraw()
            raise
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let others have the folder."""
        self._over.set()
        self._thread.join()
        self._withdraw()

    def _wait_until_alone(self, what: str) -> None:
        first: dict[str, int] = {}
        self._write()
        while others := self._others():
            for path, beat in others.items():
                if first.setdefault(path, beat) != beat:
                    raise Held(
                        f"one driver at a time runs a {what}, but {self._words(path)} "
                        "is at it: wait for it, or use another name"
                    )
            time.sleep(LOOK_S)
            self._write()

    def _others(self) -> dict[str, int]:
        """The last beats of drivers that may be alive; removes the claims of others."""
        found = self._store.get_file_info(
            fs.FileSelector(self._folder, allow_not_found=True)
        )
        beats = {
            claim.path: claim.mtime_ns
            for claim in found
            if claim.type == fs.FileType.File
        }
        now = beats.pop(self._path)
        for path in [p for p, beat in beats.items() if now - beat > EXPIRY_S * 1e9]:
            del beats[path]
            self._delete(path)
        return beats

    def _keep_beating(self) -> None:
        while not self._over.wait(BEAT_S):
            with suppress(OSError):  # a store may be away for a moment
                if self._store.get_file_info(self._path).type != fs.FileType.File:
                    self.lost = True
                    return
                self._write()

    def _write(self) -> None:
        who = {"host": socket.gethostname(), "process": os.getpid()}
        with self._store.open_output_stream(self._path) as stream:
            stream.write(json.dumps(who).encode())

    def _withdraw(self) -> None:
        with suppress(OSError):
            self._delete(self._path)

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._store.delete_file(path)

    def _words(self, path: str) -> str:
        with self._store.open_input_stream(path) as stream:
            who = json.loads(stream.read())
        return f"process {who['process']} on {who['host']}"
