"""The folder of a comparison."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from raymeta import folder
from raymeta.search.states import States
from raymeta.storage import saved
from raymeta.validity import COLUMN, mark, recorded


class Folder(folder.Folder):
    """`<storage>/<name>` with comparison.json, journal.jsonl and frame.parquet.

    A finished one has evidence.json and spending.json too.
    """

    kind: ClassVar[str] = "comparison"
    record: ClassVar[str] = "comparison.json"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.journal = path / "journal.jsonl"
        self.tune = path / ".tune"  # what Tune writes; nobody reads it
        self.states = States((path / ".states").resolve())

    def read(self) -> pd.DataFrame:
        """The frame as it was written last, marked where it is not valid."""
        frame = super().read()
        return frame if COLUMN in frame else mark(frame, recorded(self.path))

    def write_record(self, name: str, record: Any) -> None:
        """Write a JSON file."""
        file = self.path / name
        file.write_text(json.dumps(record, indent=2) + "\n")
        saved(file)


def folder_of(storage: str | Path, name: str | None, tasks: list[str]) -> Folder:
    """The folder of that name, or a new one named after the tasks and the time.

    Raises:
        ValueError: the name is not that of a folder.
    """
    return Folder(folder.path_of(storage, name, tasks))
