"""Evaluation log of a descent, as it lies on disk.

The folder of a trial has files `*.log`, to which evaluations are appended as they are
made, and `snapshot.pt`, which is replaced as a whole now and then: it says how much of
which files counts, and has the states that go with it. Each attempt at the trial writes
a file of its own, so a worker that was thought dead spoils nothing.
"""

import math
import shutil
import struct
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from raymeta._tree import flatten, tree_leaves
from raymeta.hypergrad import Rollout
from raymeta.results.mirror import Mirror
from raymeta.results.tensors import load_tensors, save_tensors, structure_of

SNAPSHOT = "snapshot.pt"

#: How often it is saved at most, and how many times as long as saving that must take.
SAVE_EVERY_S, SAVE_SHARE = 1.0, 50

#: What is written between is kept in memory up to this.
BUFFER_BYTES = 1 << 20

#: Before each evaluation: its length in doubles, and their checksum.
_HEADER = struct.Struct("<II")


class LogRecord(NamedTuple):
    """An evaluation as plain numbers.

    Attributes:
        asked: checksum of what was evaluated.
        seconds: what the trial's stopwatch showed afterwards.
        step: where training stood afterwards.
        values: E of each run; none where arithmetic overflowed.
        charge: charge for the hypergradient, NaN without one; likewise the following.
        residual: see `Hypergradient`.
        gradient: dE/dλ, shape (K,), or (0,).
    """

    asked: int
    seconds: float
    step: int
    values: Sequence[float]
    charge: float = math.nan
    residual: float = math.nan
    gradient: np.ndarray = np.empty(0)

    def pack(self) -> bytes:
        """Header and numbers."""
        head = (*self[:3], self.charge, self.residual, len(self.values), *self.values)
        body = np.concatenate([np.array(head), self.gradient]).astype("<f8").tobytes()
        return _HEADER.pack(len(body) // 8, zlib.crc32(body)) + body

    @classmethod
    def unpack(cls, body: bytes) -> "LogRecord":
        """From the numbers."""
        numbers = np.frombuffer(body, dtype="<f8")
        asked, seconds, step, charge, residual, runs = numbers[:6].tolist()
        values, gradient = np.split(numbers[6:].astype(float), [int(runs)])
        values = values.tolist()
        return cls(int(asked), seconds, int(step), values, charge, residual, gradient)


class Snapshot(NamedTuple):
    """How far evaluations count, and the states that go with them.

    Attributes:
        segments: name and bytes of each file, in order.
        length: evaluations in them.
        rollout: leaves of the state where the next one goes on from the last, None
            where it starts from s_0.
        carry: leaves of what the rollout carries along.
        structure: that without its leaves, in JSON, see `structure_of`. Not that of
            the first rollout: an estimator may begin with nothing.
        best: leaves of the best run's state, None where there is none.
    """

    segments: tuple[tuple[str, int], ...] = ()
    length: int = 0
    rollout: list[Any] | None = None
    carry: list[Any] | None = None
    structure: str = "null"
    best: list[Any] | None = None


class EvaluationLog:
    """Evaluations in a folder.

    What is missing, torn or of another signature counts as never written. Where nothing
    can be written, nothing is kept: it would only have saved time.

    Args:
        folder: the trial's folder; none for a log that is empty and stays so.
        signature: digest of all that evaluations depend on besides what is asked.
        mirror: that of the folder, where it is the image of one on an object store; it
            goes when the log is closed.

    Attributes:
        snapshot: what was found.
    """

    def __init__(
        self, folder: Path | None, signature: str, mirror: Mirror | None = None
    ) -> None:
        self._folder, self._signature, self._mirror = folder, signature, mirror
        self.snapshot = Snapshot() if folder is None else _found(folder, signature)
        self._length = self.snapshot.length
        self._file: IO[bytes] | None = None
        self._due = time.monotonic() + SAVE_EVERY_S

    @property
    def due(self) -> bool:
        """Whether it should be saved."""
        return self._file is not None and time.monotonic() > self._due

    def records(self) -> Iterator[LogRecord]:
        """What was found, in order."""
        if self._folder is not None:
            yield from map(LogRecord.unpack, _bodies(self._folder, self.snapshot))

    def write(self, evaluated: LogRecord) -> None:
        """Append; it counts when the log is saved."""
        if self._folder is None:
            return
        with self._giving_up():
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                path = self._folder / f"{uuid.uuid4().hex}.log"
                self._file = path.open("xb", buffering=BUFFER_BYTES)
            self._file.write(evaluated.pack())
            self._length += 1

    def save(
        self, best: list[Any] | None = None, rollout: Rollout | None = None
    ) -> None:
        """Make all that was written count.

        Args:
            best: leaves of the best run's state, None where there is none.
            rollout: where the next evaluation goes on; None where it starts from s_0.
        """
        if self._folder is None or self._file is None:
            return
        began = time.monotonic()
        with self._giving_up():
            self._file.flush()
            own = Path(self._file.name).name, self._file.tell()
            segments = (*self.snapshot.segments, own)
            snapshot = Snapshot(segments, self._length, best=best)
            if rollout is not None:
                state, spec = flatten(rollout.state)
                snapshot = snapshot._replace(
                    rollout=state,
                    carry=tree_leaves(rollout.carry),
                    structure=structure_of(rollout.carry, known=spec),
                )
            saved = {"signature": self._signature, **snapshot._asdict()}
            save_tensors(self._folder / SNAPSHOT, saved)
            self._send()
        now = time.monotonic()
        self._due = now + max(SAVE_EVERY_S, SAVE_SHARE * (now - began))

    def discard(self) -> None:
        """Make nothing count."""
        if self._folder is not None:
            (self._folder / SNAPSHOT).unlink(missing_ok=True)
            self._send()
        self.close()

    def close(self) -> None:
        """Write nothing more."""
        if self._file is not None:
            with suppress(OSError):  # a full disk
                self._file.close()
        if self._mirror is not None:
            shutil.rmtree(self._mirror.local, ignore_errors=True)
        self._folder = self._file = self._mirror = None

    def _send(self) -> None:
        """Let an object store have what counts; one that is away gets it next time."""
        if self._mirror is not None:
            with suppress(ValueError):
                self._mirror.sync()  # logs first, by their names

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Keep nothing more once the disk refuses, or what could not be read back."""
        try:
            yield
        except (OSError, RuntimeError, ValueError):  # the second from torch, for a disk
            self.close()


def _found(folder: Path, signature: str) -> Snapshot:
    """What counts."""
    with suppress(Exception):  # a machine may have crashed in the middle of anything
        saved = load_tensors(folder / SNAPSHOT)
        snapshot = Snapshot(*(saved[name] for name in Snapshot._fields))
        whole = sum(1 for _ in _bodies(folder, snapshot)) == snapshot.length
        if saved["signature"] == signature and whole:
            return snapshot
    return Snapshot()


def _bodies(folder: Path, snapshot: Snapshot) -> Iterator[bytes]:
    """The numbers of each evaluation.

    Raises:
        EOFError: a file is not as it was written.
    """
    for name, size in snapshot.segments:
        with (folder / name).open("rb") as file:
            while file.tell() < size:
                count, checksum = _HEADER.unpack(file.read(_HEADER.size))
                body = file.read(8 * count)
                if zlib.crc32(body) != checksum or len(body) != 8 * count:
                    raise EOFError(file.name)
                yield body
