"""Run folders: `<storage>/<name>` with a run's settings, its frame and what it needs.

Every run, of `compare`, `optimize`, `diagnose` and `train`, opens its folder here:
wherever the storage is, alone, and with the settings of the run that it continues.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd
from filelock import FileLock, Timeout

from raymeta.errors import require_arguments
from raymeta.results import mirror, schema
from raymeta.results.atomic import atomic_write
from raymeta.results.integrity import (
    WRITTEN_AGAIN,
    DamagedFile,
    parquet_bytes,
    read_json,
    read_parquet,
)
from raymeta.results.provenance import provenance
from raymeta.results.records import write_json
from raymeta.results.refusals import require_no_keys
from raymeta.results.segments import join_segments

Kind = Literal["comparison", "optimization", "training", "diagnosis"]

#: Of a folder, its record and the settings now: raises where the run may not go on.
Require = Callable[[Path, Mapping[str, Any], dict[str, Any]], None]

#: Files in which `raymeta report` has said what a run found.
REPORT_FILES = ("surface*", "curve*", "learning_*", "report.html")


class RunFolder:
    """The folder of a run, which this process alone writes in while it is open.

    Attributes:
        path: the folder on this machine.
        frame: the file of its frame.
        kind: the kind of run; `<kind>.json` has its settings, when it ran, and
            what is noted beside.
    """

    def __init__(self, path: Path, kind: Kind) -> None:
        self.path, self.kind = path, kind
        self.frame = path / "frame.parquet"
        self._file = path / f"{kind}.json"
        self._record: dict[str, Any] = {}
        self._locked: os.stat_result | None = None
        self._has_frame = False

    @classmethod
    @contextmanager
    def open(
        cls,
        storage: str | Path,
        name: str,
        kind: Kind,
        settings: Mapping[str, Any],
        *,
        resume: bool = True,
        follow: mirror.Names = (),
        require: Require | None = None,
    ) -> Iterator[Self]:
        """Open the folder of a run: create it, or go on in it.

        On an object store it is a local folder that is kept the same as the one there,
        and no other driver writes there meanwhile. On a disk no other process does.

        Args:
            storage: the folder that holds it; or its address on an object store.
            name: the run's name, see `run_name`.
            kind: the kind of run.
            settings: JSON values, which decide what the run finds.
            resume: whether what the folder holds must be of the same settings; else a
                run before is replaced.
            follow: patterns of the files that other processes write meanwhile.
            require: raises ValueError where it may not go on; `require_same` by
                default.

        Yields:
            The open folder. Where Ctrl-C ends what is done in it, the exception says
            where the frame is.

        Raises:
            ValueError: the folder cannot be written, or holds something else or a run
                with other settings; another process is at it.
        """
        with (
            mirror.at(storage, name, follow=follow) as here,
            ExitStack() as locked,
        ):
            folder = cls(here / name, kind)
            # First: what the driver before wrote is here only then.
            mirror.lock(folder.path, kind)
            try:
                asked = json.loads(json.dumps(settings))
                folder._begin(asked, resume, require or require_same, locked)
            except OSError as error:
                raise ValueError(
                    f"results must go to a folder that can be written, but "
                    f"{folder.path} cannot ({error.strerror}): pass another storage"
                ) from error
            try:
                yield folder
            except KeyboardInterrupt:
                if not folder._has_frame:
                    raise
                where = mirror.address(folder.frame)
                raise KeyboardInterrupt(f"what was found is in {where}") from None

    def _begin(
        self,
        settings: dict[str, Any],
        resume: bool,
        require: Require,
        locked: ExitStack,
    ) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self.path / ".lock"
        if not lock.exists():  # nothing is left in a folder of something else
            self._require_ours()
        # First, then a look: another process may be about to begin here.
        locked.enter_context(_locked(lock, self.kind))
        self._locked = os.stat(lock)
        join_segments(self.path)
        self._require_ours()
        version = {schema.KEY: schema.VERSION}
        if resume and self._file.exists():
            record = schema.current_record(read_json(self._file))
            if lacking := [name for name in settings if name not in record]:
                reason = f"it is the record of something else: it lacks {lacking[0]!r}"
                raise DamagedFile(self._file, reason)
            require(self.path, record, settings)
            # Not written: who must go on with an older version finds what it wrote.
            self._record, self._has_frame = record | version, self.frame.exists()
            return
        for pattern in () if resume else REPORT_FILES:
            for file in self.path.glob(pattern):
                file.unlink()
        self.note(**settings, runs=[], **version)

    def _require_ours(self) -> None:
        own = re.compile(r"\.lock|.*\.tmp")  # as a killed process may leave them alone
        others = [f for f in self.path.iterdir() if not own.fullmatch(f.name)]
        if others and not self._file.exists():
            raise ValueError(
                f"a new {self.kind} needs a new folder, but {self.path} holds "
                f"something else, and no {self._file.name}: use another name"
            )

    def require_there(self) -> None:
        """Raise ValueError where somebody has removed or replaced the folder."""
        assert self._locked is not None
        try:
            # It is open as long as we hold it, so that no other file has its number.
            same = os.path.samestat(os.stat(self.path / ".lock"), self._locked)
        except FileNotFoundError:
            same = False
        if not same:
            raise ValueError(
                f"{self.path} was removed or replaced while a run wrote in it, and "
                "what the run found is lost: restore the folder, or give the same "
                "command to begin anew"
            )

    def record_run(self, task_files: Mapping[str, str] | None = None) -> None:
        """Note when, where, by which command and with which versions it runs.

        Args:
            task_files: `path.py:Name` by name, for tasks that are in files.
        """
        run = {**provenance(), "task_files": dict(task_files or {})}
        self.note(runs=[*self._record["runs"], run])

    def note(self, **facts: Any) -> None:
        """Keep JSON values beside the settings."""
        self.require_there()
        self._record |= facts
        write_json(self._record, self._file)

    @property
    def record(self) -> Mapping[str, Any]:
        """All that is kept: settings, runs, and what was noted."""
        return self._record

    def noted(self, what: str) -> Any:
        """What was kept under a name; None before."""
        return self._record.get(what)

    def read(self) -> pd.DataFrame:
        """The frame as it was written last."""
        return schema.current_frame(read_parquet(self.frame, WRITTEN_AGAIN))

    def write(self, frame: pd.DataFrame) -> None:
        """Replace the frame."""
        self.require_there()
        write_frame(frame, self.frame)
        self._has_frame = True


def run_name(storage: str | Path, name: str | None, words: Sequence[str]) -> str:
    """The name of a run's folder; by default a new one of these words and the time.

    Raises:
        ValueError: it is not the name of a folder; the storage has keys in its
            address.
    """
    require_arguments(run_name, storage=storage, name=name)
    require_no_keys(str(storage))
    if name is None:
        plain = re.sub(r"[^\w.-]+", "_", "-".join(words))
        name = f"{plain[:60]}-{datetime.now():%Y%m%d-%H%M%S}"
        taken = [p.name for p in Path(storage).glob(f"{name}*")]
        return name + (f"-{len(taken) + 1}" if taken else "")
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise ValueError(
            "a name must consist of letters, digits, '_', '-' and '.', but got "
            f"{name!r}"
        )
    return name


def run_address(storage: str | Path, name: str) -> str:
    """Where a run's results go, for people."""
    if mirror.is_remote(storage):
        return f"{str(storage).rstrip('/')}/{name}"
    return str(Path(storage) / name)


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write parquet in one piece, also on the object store that the folder is on."""
    with atomic_write(path) as file:
        file.write(parquet_bytes(frame))
    mirror.upload(path)


@contextmanager
def _locked(file: Path, kind: Kind) -> Iterator[None]:
    """Lock a folder by a file in it; one process can, and its end unlocks it.

    By a descriptor of its own: within one process, two runs are two as well.
    """
    lock = FileLock(file, is_singleton=False, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        article = "an" if kind[0] in "aeiou" else "a"
        raise ValueError(
            f"one process at a time runs {article} {kind}, but another one is writing "
            f"{file}: wait for it, or use another name"
        ) from None
    try:
        yield
    finally:
        lock.release()


def require_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise ValueError unless settings are as they were.

    Args:
        path: the folder of the run.
        old: its record.
        new: the settings now.
    """
    for what, value in new.items():
        if old[what] != value:
            raise ValueError(
                f"{path} was started with other {what} ({_difference(old[what], value)}"
                "): give the same settings to continue it, or use another name"
            )


def _difference(old: Any, new: Any) -> str:
    """Where two JSON values differ, in a few words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *new]:
            if old.get(key) != new.get(key):
                return f"{key}: {_difference(old.get(key), new.get(key))}"
    return f"{_words(old)} then, {_words(new)} now"


def _words(value: Any) -> str:
    return "none" if value is None else str(value)
