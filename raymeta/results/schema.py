"""The schema of what comparisons write, and how older files are read.

Before version 1, `forward` was the online method and `forward_long` forward mode
through the whole run. Frames, records and journals without a version are of that time:
they are read with the names that their methods have today.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

#: Under this key, frames (`attrs`, which parquet keeps) and records have their version.
KEY, VERSION = "schema", 1

#: Names of methods before version 1 -> their names today.
RENAMED = {"forward": "forward_online", "forward_long": "forward"}

#: The first event of a journal, or of what has been added to an older one.
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


def current_events(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of a journal with today's names, without what marks the version."""
    events = list(events)
    old = events.index(EVENT) if EVENT in events else len(events)
    for event in events[:old]:
        if "cell" in event:
            task, method, seed = event["cell"]
            event["cell"] = [task, RENAMED.get(method, method), seed]
    return [event for event in events if event != EVENT]


def _settings(name: str, text: str) -> str:
    """A method's settings as text: what descents were, and are called today."""
    new = RENAMED.get(name, name)
    then, now = (f"Descent(name={name!r}", f"HypergradientDescent(name={new!r}")
    return text.replace(then, now)
