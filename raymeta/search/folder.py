"""The folder of a comparison: its name, its settings, its files."""

import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from raymeta.search.frame import write_frame

PACKAGES = ("raymeta", "torch", "ray", "optuna")


class Folder:
    """`<storage>/<name>` with comparison.json, journal.jsonl and frame.parquet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = path / "journal.jsonl"
        self.frame = path / "frame.parquet"
        self.tune = path / ".tune"  # what Tune writes; nobody reads it
        self._settings = path / "comparison.json"

    def claim(self, settings: dict[str, Any]) -> None:
        """Create the folder for these settings, or find it with the same ones.

        Raises:
            ValueError: it cannot be written, holds something else, or a comparison
                with other settings.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write(self._record(settings))
        except OSError as error:
            raise ValueError(
                f"results must go to a folder that can be written, but {self.path} "
                f"cannot ({error.strerror}): pass another storage"
            ) from error

    def record_run(self) -> None:
        """Note when, by which command and with which versions it runs."""
        record = json.loads(self._settings.read_text())
        run = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "versions": _versions(),
        }
        self._write({**record, "runs": [*record["runs"], run]})

    def read(self) -> pd.DataFrame:
        """The frame as it was written last."""
        return pd.read_parquet(self.frame)

    def write(self, frame: pd.DataFrame) -> None:
        """Replace the frame."""
        write_frame(frame, self.frame)

    def _record(self, settings: dict[str, Any]) -> dict[str, Any]:
        """What comparison.json holds."""
        settings = json.loads(json.dumps(settings))
        if self._settings.exists():
            record = json.loads(self._settings.read_text())
            _check_same(self.path, record, settings)
            return record
        if any(self.path.iterdir()):
            raise ValueError(
                f"a new comparison needs a new folder, but {self.path} holds something "
                "else: use another name"
            )
        return {**settings, "runs": []}

    def _write(self, record: dict[str, Any]) -> None:
        temporary = self._settings.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=2) + "\n")
        os.replace(temporary, self._settings)


def folder_of(storage: str | Path, name: str | None, tasks: list[str]) -> Folder:
    """The folder of that name, or a new one named after the tasks and the time.

    Raises:
        ValueError: the name is not that of a folder.
    """
    if name is None:
        name = new_name(storage, tasks)
    elif not re.fullmatch(r"[\w-][\w.-]*", name):
        raise ValueError(
            "a name must consist of letters, digits, '_', '-' and '.', but got "
            f"{name!r}"
        )
    return Folder(Path(storage) / name)


def new_name(storage: str | Path, tasks: Sequence[str]) -> str:
    """A name that no folder of the storage has, after the tasks and the time."""
    plain = re.sub(r"[^\w.-]+", "_", "-".join(tasks))
    name = f"{plain[:60]}-{datetime.now():%Y%m%d-%H%M%S}"
    taken = [p.name for p in Path(storage).glob(f"{name}*")]
    return name + (f"-{len(taken) + 1}" if taken else "")


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


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from its sources
            versions[package] = "unknown"
    return versions
