"""The folder of a comparison."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from raymeta.results import run_folder, schema
from raymeta.results.mirror import saved
from raymeta.results.validity import COLUMN, mark, recorded
from raymeta.runtime import source_code
from raymeta.search.fairness import same_values
from raymeta.search.plan import Values
from raymeta.search.worker.trial_store import TrialStore


class ComparisonFolder(run_folder.RunFolder):
    """`<storage>/<name>` with comparison.json, journal.jsonl and frame.parquet.

    A finished one has evidence.json and spending.json too.
    """

    kind: ClassVar[str] = "comparison"
    record: ClassVar[str] = "comparison.json"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.journal = path / "journal.jsonl"
        self.tune = path / ".tune"  # what Tune writes; nobody reads it
        self.states = TrialStore((path / ".states").resolve())

    def read(self) -> pd.DataFrame:
        """The frame as it was written last, marked where it is not valid."""
        frame = super().read()
        return frame if COLUMN in frame else mark(frame, recorded(self.path))

    def _record(self, settings: dict[str, Any]) -> dict[str, Any]:
        if self._settings.exists():
            before = json.loads(self._settings.read_text())
            self._write(schema.current_record(before) | {schema.KEY: schema.VERSION})
        return super()._record(settings) | {schema.KEY: schema.VERSION}

    def require_same_code(self, code: Mapping[str, str], *, begun: bool) -> None:
        """Note of what code it is; one that goes on must be of the same.

        Args:
            code: of its tasks and methods, see `source_code.code_of`.
            begun: whether a trial has run; else what was noted is replaced.

        Raises:
            ValueError: functions or classes are not as they were.
        """
        then = self.noted("code")
        if then is None or not begun:
            self.note(code=source_code.recorded(code))
        elif differ := source_code.changed(then, code):
            raise ValueError(
                f"{self.path} was started with other code, for since then "
                f"{source_code.listed(differ)} changed: use another name, or take the "
                "change back"
            )

    def require_same_values(self, values: Values, *, begun: bool) -> None:
        """Note what tasks compute at first; one that goes on must compute the same.

        Args:
            values: of `Plan.first_values`.
            begun: whether a trial has run; else what was noted is replaced.

        Raises:
            ValueError: a task does not.
        """
        then = self.noted("first_values")
        if then is None or not begun:
            self.note(first_values=values)
            return
        for task, now in values.items():
            if not same_values(then.get(task, []), now):
                raise ValueError(
                    f"{self.path} was started where task {task!r} had outer losses of "
                    f"{_numbers(then[task])} before and after its first step, and has "
                    f"{_numbers(now)} now: its data, its random numbers or a library "
                    "changed: seed the data, restore what changed, or use another name"
                )

    def write_record(self, name: str, record: Any) -> None:
        """Write a JSON file."""
        file = self.path / name
        file.write_text(json.dumps(record, indent=2) + "\n")
        saved(file)


def _numbers(values: Sequence[float]) -> str:
    return " and ".join(f"{value:.6g}" for value in values[:2])


def folder_of(
    storage: str | Path, name: str | None, tasks: list[str]
) -> ComparisonFolder:
    """The folder of that name, or a new one named after the tasks and the time.

    Raises:
        ValueError: the name is not that of a folder.
    """
    return ComparisonFolder(run_folder.path_of(storage, name, tasks))
