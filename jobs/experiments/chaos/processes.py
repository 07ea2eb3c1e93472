"""Processes of disturbed runs: forked, so that none imports torch again."""

import ctypes
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import psutil

from jobs.experiments.chaos.runs import KINDS
from raymeta.cli import exit_code

PR_SET_CHILD_SUBREAPER = 36
#: Seconds in which a run must end; long, for a busy machine.
PATIENCE_S = 400.0


class TooLong(AssertionError):
    """Something did not happen in time."""


def adopt_orphans() -> None:
    """Make this process the parent of what its children leave."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def until(happens: Callable[[], object], what: str, seconds: float = 120.0) -> None:
    """Wait until a function returns something true.

    Raises:
        TooLong: it did not within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > deadline:
            raise TooLong(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


def tree(pid: int | None = None) -> dict[int, psutil.Process]:
    """All that descends from a process (this one), without those that have ended."""
    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return {}
    return {p.pid: p for p in found if _runs(p)}


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def named(process: psutil.Process) -> str:
    """A process' number and command line."""
    try:
        return f"{process.pid} {' '.join(process.cmdline())}"
    except psutil.Error:
        return str(process.pid)


class Run:
    """A run in a process of its own.

    Args:
        kind: of `KINDS`.
        storage: a folder, or an address.
        here: a folder of this run: its temporary files, what it says and finds.
        environment: what it finds in its environment besides.

    Attributes:
        pid: the driver's.
        code: the exit code, negative for a signal; None while it goes on.
    """

    def __init__(
        self, kind: str, storage: str, here: Path, environment: dict[str, str]
    ) -> None:
        self.kind, self.storage, self.here = kind, storage, here
        self.temporary, self.log = here / "t", here / "said"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._become(environment)

    def _become(self, environment: dict[str, str]) -> None:
        code = 1
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ.update(environment, TMPDIR=str(self.temporary))
            tempfile.tempdir = None
            file = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(file, stream)
            run = KINDS[self.kind].run
            found = self.here / "found.parquet"
            code = exit_code(lambda: run(self.storage).to_parquet(found))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    @property
    def progress(self) -> int:
        """How far it has come, on the disk of this machine."""
        far = "://" in self.storage
        root = self.temporary if far else Path(self.storage)
        return KINDS[self.kind].progress(root)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def signal(self, number: int) -> None:
        """Send the driver a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = PATIENCE_S) -> int | None:
        """Its exit code; `TooLong` where it does not end."""
        until(lambda: self.over, f"{self.kind} ends", seconds)
        return self.code

    def wait_for(self, progress: float) -> None:
        """Wait until it has come so far, or has ended."""
        until(
            lambda: self.progress >= progress or self.over,
            f"{self.kind} comes to {progress:g}; it said {self.said[-500:]}",
            PATIENCE_S,
        )

    @property
    def said(self) -> str:
        """All that it has said."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""
