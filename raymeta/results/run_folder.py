"""The folder of a job's results: its name, its settings, its frame."""

import fcntl
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, ClassVar

import pandas as pd

from raymeta.results.mirror import hold, saved
from raymeta.results.schema import current_frame

PACKAGES = ("raymeta", "torch", "ray", "optuna")


class RunFolder:
    """`<storage>/<name>` with frame.parquet and a record of its settings.

    Attributes:
        kind: what job it is of.
        record: file name of the settings and of when it ran.
    """

    kind: ClassVar[str]
    record: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frame = path / "frame.parquet"
        self._settings = path / self.record

    def claim(self, settings: dict[str, Any]) -> None:
        """Create the folder for these settings, or find it with the same ones.

        On an object store no other driver can write in it from now on.

        Raises:
            ValueError: it cannot be written, holds something else, or such a job with
                other settings; another driver has it.
        """
        hold(self.path, self.kind)  # first: what it holds is read only then
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write(self._record(settings))
        except OSError as error:
            raise ValueError(
                f"results must go to a folder that can be written, but {self.path} "
                f"cannot ({error.strerror}): pass another storage"
            ) from error

    def record_run(self, task_files: Mapping[str, str] | None = None) -> None:
        """Note when, where, by which command and with which versions it runs.

        Args:
            task_files: where tasks are from that are in files: `path.py:Name` by name.
        """
        record = json.loads(self._settings.read_text())
        run = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "task_files": dict(task_files or {}),
            "commit": _commit(),
            "machine": _machine(),
            "versions": _versions(),
        }
        self._write({**record, "runs": [*record["runs"], run]})

    def note(self, **facts: Any) -> None:
        """Keep JSON values beside the settings."""
        self._write(json.loads(self._settings.read_text()) | facts)

    def noted(self, what: str) -> Any:
        """What was kept under a name; None before."""
        return json.loads(self._settings.read_text()).get(what)

    def read(self) -> pd.DataFrame:
        """The frame as it was written last."""
        return current_frame(pd.read_parquet(self.frame))

    def write(self, frame: pd.DataFrame) -> None:
        """Replace the frame."""
        write_frame(frame, self.frame)

    def _record(self, settings: dict[str, Any]) -> dict[str, Any]:
        """What the record holds."""
        settings = json.loads(json.dumps(settings))
        if self._settings.exists():
            record = json.loads(self._settings.read_text())
            _check_same(self.path, record, settings)
            return record
        if any(self.path.iterdir()):
            raise ValueError(
                f"a new {self.kind} needs a new folder, but {self.path} holds "
                "something else: use another name"
            )
        return {**settings, "runs": []}

    def _write(self, record: dict[str, Any]) -> None:
        temporary = self._settings.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=2) + "\n")
        os.replace(temporary, self._settings)
        saved(self._settings)


class OptimizationFolder(RunFolder):
    """The folder of `raymeta optimize`: each run replaces what the one before left.

    Whoever has claimed it is alone with it until `close`.
    """

    kind: ClassVar[str] = "optimization"
    record: ClassVar[str] = "optimization.json"

    #: Files in which `raymeta report` said what the one before had found.
    REPORTED = ("surface*", "curve*", "learning_*", "report.html")

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._locked = ExitStack()
        self.close = self._locked.close

    def claim(self, settings: dict[str, Any]) -> None:
        """As of any job; reports of an optimization before this one are removed."""
        super().claim(settings)
        for pattern in self.REPORTED:
            for file in self.path.glob(pattern):
                file.unlink()

    def _record(self, settings: dict[str, Any]) -> dict[str, Any]:
        if any(self.path.iterdir()) and not self._settings.exists():
            raise ValueError(
                f"an optimization replaces what one before it left, but {self.path} "
                "holds something else: use another name"
            )
        lock(
            self._locked.enter_context((self.path / ".lock").open("ab")),
            "an " + self.kind,
        )
        return {**settings, "runs": []}


def path_of(storage: str | Path, name: str | None, words: Sequence[str]) -> Path:
    """The folder of that name, or a new one named after the words and the time.

    Raises:
        ValueError: the name is not that of a folder.
    """
    if name is None:
        name = new_name(storage, words)
    elif not re.fullmatch(r"[\w-][\w.-]*", name):
        raise ValueError(
            "a name must consist of letters, digits, '_', '-' and '.', but got "
            f"{name!r}"
        )
    return Path(storage) / name


def new_name(storage: str | Path, words: Sequence[str]) -> str:
    """A name that no folder of the storage has, after the words and the time."""
    plain = re.sub(r"[^\w.-]+", "_", "-".join(words))
    name = f"{plain[:60]}-{datetime.now():%Y%m%d-%H%M%S}"
    taken = [p.name for p in Path(storage).glob(f"{name}*")]
    return name + (f"-{len(taken) + 1}" if taken else "")


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write parquet in one piece: a reader sees the old frame or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        frame.to_parquet(temporary, index=False)
    except OSError:
        temporary.unlink(missing_ok=True)  # a full disk needs the room
        raise
    os.replace(temporary, path)
    saved(path)


def lock(file: IO[bytes], kind: str) -> None:
    """Lock an open file until it is closed; one process can.

    Raises:
        ValueError: another process has locked it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"one process at a time runs {kind}, but another one is writing "
            f"{file.name}: wait for it, or use another name"
        ) from None


def _check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
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


def _commit() -> str | None:
    """The git commit of the working directory, `-dirty` with changes; None without."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(describe, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):  # no git, or a huge repository
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _machine() -> dict[str, Any]:
    cpuinfo, processor = Path("/proc/cpuinfo"), platform.processor()
    if cpuinfo.exists():
        models = re.findall(r"model name\s*: (.+)", cpuinfo.read_text())
        processor = models[0] if models else processor
    return {
        "system": platform.platform(),
        "processor": processor,
        "CPUs": os.cpu_count(),
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from its sources
            versions[package] = "unknown"
    return versions
