"""The folder of a comparison."""

from pathlib import Path
from typing import ClassVar

from raymeta import folder
from raymeta.search.states import States


class Folder(folder.Folder):
    """`<storage>/<name>` with comparison.json, journal.jsonl and frame.parquet."""

    kind: ClassVar[str] = "comparison"
    record: ClassVar[str] = "comparison.json"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.journal = path / "journal.jsonl"
        self.tune = path / ".tune"  # what Tune writes; nobody reads it
        self.states = States((path / ".states").resolve())


def folder_of(storage: str | Path, name: str | None, tasks: list[str]) -> Folder:
    """The folder of that name, or a new one named after the tasks and the time.

    Raises:
        ValueError: the name is not that of a folder.
    """
    return Folder(folder.path_of(storage, name, tasks))
