"""The schema of what comparisons write, and how older files are read.

Before version 1, `forward` was the online method and `forward_long` forward mode
through the whole run. Frames, records and journals without a version are of that time:
frames and records are read with the names that their methods have today.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

#: Under this key, frames (`attrs`, which parquet keeps) and records have their version.
KEY, VERSION = "schema", 1

#: Names of methods before version 1 -> their names today.
RENAMED = {"forward": "forward_online", "forward_long": "forward"}

#: The first event of a journal.
EVENT: dict[str, Any] = {"event": KEY, "version": VERSION}


def current_frame(frame: "pd.DataFrame") -> "pd.DataFrame":
    """A frame as it was read, with today's names of methods.

    Only frames of comparisons may have the old names: others name estimators' classes.
    """
    if KEY in frame.attrs or "method" not in frame:
        return frame
    frame = frame.assign(method=frame["method"].replace(RENAMED))
    frame.attrs[KEY] = VERSION
    return frame


def current_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison.json or spending.json as it was read, with today's names."""
    current = dict(record)
    if KEY in record:
        return current
    if "methods" in record:
        current["methods"] = {
            RENAMED.get(name, name): _settings(name, text)
            for name, text in record["methods"].items()
        }
    for part in ("skipped", "cells"):
        if part in record:
            rows = record[part]
            current[part] = [
                row | {"method": RENAMED.get(row["method"], row["method"])}
                for row in rows
            ]
    return current


def require_current(events: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Raise ValueError where an older version began the journal of a comparison."""
    if events and events[0] != EVENT:
        raise ValueError(
            f"{folder} was begun by an older raymeta, whose journals this one cannot "
            "continue: finish it with that version, or use another name"
        )


def _settings(name: str, text: str) -> str:
    """A method's settings as text: what descents were, and are called today."""
    new = RENAMED.get(name, name)
    then, now = (f"Descent(name={name!r}", f"HypergradientDescent(name={new!r}")
    return text.replace(then, now)
