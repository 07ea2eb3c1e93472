"""Comparisons of several folders in one, where they trained on the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymeta.results import schema
from raymeta.results.integrity import WRITTEN_AGAIN, read_parquet
from raymeta.results.records import (
    read_evidence,
    read_record,
    read_spending,
    write_evidence,
    write_json,
)
from raymeta.results.run_folder import write_frame
from raymeta.results.same_training import difference, unlike
from raymeta.results.validity import marked

if TYPE_CHECKING:
    import pandas as pd

#: What makes a row of a frame that of a study.
STUDY = ["task", "method", "seed"]


def put_together(folders: Sequence[Path]) -> Path:
    """Put comparisons into one folder, `a+b` beside the first.

    A study that several have is taken from the first one. The folder holds the frame
    and the records, not the journals: nothing goes on in it.

    Returns:
        The new folder; one of the same name that is there is replaced.

    Raises:
        ValueError: one is no finished comparison; they did not train on the same; or
            the name is that of something else.
    """
    folders = [path if path.is_dir() else path.parent for path in folders]
    records = [_record(folder) for folder in folders]
    frames = [_frame(folder) for folder in folders]
    known = [read_evidence(folder) for folder in folders]
    for place, folder in enumerate(folders):
        for before in range(place):
            pair = f"{folders[before]} and {folder}"
            if differs := difference(records[before], records[place]):
                what, one, other = differs
                raise ValueError(
                    f"{pair} did not train on the same, for the {what} is {one} in "
                    f"the first and {other} in the second: report each alone"
                )
            if digests := unlike(known[before], known[place]):
                where, kinds = digests
                raise ValueError(
                    f"{pair} did not train on the same, for {' and '.join(kinds)} of "
                    f"{where}, differ: report each alone"
                )
    target = folders[0].parent / "+".join(folder.resolve().name for folder in folders)
    _write(target, folders, records, frames, known)
    return target


def joined(frames: "Sequence[pd.DataFrame]") -> "pd.DataFrame":
    """Frames of reports in one: words where one of them has words.

    Of a study that several have, the rows of the first.
    """
    import pandas as pd

    parts: list[pd.DataFrame] = []
    seen: set[tuple[Any, ...]] = set()
    for frame in frames:
        keys = [tuple(key) for key in zip(*(frame[n] for n in STUDY), strict=True)]
        new = [key not in seen for key in keys]
        parts.append(frame[new])
        seen.update(keys)
    for name in dict.fromkeys(name for part in parts for name in part):
        having = [part for part in parts if name in part]
        numeric = [pd.api.types.is_numeric_dtype(part[name]) for part in having]
        if any(numeric) and not all(numeric):
            parts = [
                part.assign(**{name: part[name].map(str, na_action="ignore")})
                if name in part
                else part
                for part in parts
            ]
    whole = pd.concat(parts, ignore_index=True)
    hparams = [name for name in whole if name.startswith(schema.PREFIX)]
    others = [name for name in whole if name not in hparams]
    whole = whole[[*others, *hparams]]
    whole.attrs[schema.KEY] = schema.VERSION
    return whole


def _record(folder: Path) -> dict[str, Any]:
    record = read_record(folder, "comparison")
    if not record:
        raise ValueError(
            f"folders of comparisons can be put together, but {folder} has no "
            "comparison.json: report it alone"
        )
    return record


def _frame(folder: Path) -> "pd.DataFrame":
    file = folder / "frame.parquet"
    if not file.exists():
        raise ValueError(
            f"a comparison must have a frame, but {file} does not exist: run it first"
        )
    return marked(schema.current_frame(read_parquet(file, WRITTEN_AGAIN)), folder)


def _write(
    target: Path,
    folders: Sequence[Path],
    records: Sequence[Mapping[str, Any]],
    frames: "Sequence[pd.DataFrame]",
    evidence: Sequence[Mapping[str, Any]],
) -> None:
    if target.exists() and not (target / "together.json").is_file():
        raise ValueError(
            f"the comparisons would be put into {target}, but it holds something else: "
            "rename it"
        )
    target.mkdir(exist_ok=True)
    write_json({"folders": [str(f) for f in folders]}, target / "together.json")
    merged: dict[str, Any] = dict(records[0])
    for record in records[1:]:
        for what in ("tasks", "methods", "budgets"):
            merged[what] = {**record[what], **merged[what]}
        seeds = dict.fromkeys([*merged["seeds"], *record["seeds"]])
        merged["seeds"] = list(seeds)
        merged["runs"] = [*merged["runs"], *record["runs"]]
    write_json(merged, target / "comparison.json")
    found: dict[str, dict[str, Any]] = {}
    for task, seeds in ((t, s) for one in evidence for t, s in one.items()):
        for seed, at in seeds.items():
            mine = found.setdefault(task, {}).setdefault(seed, {**at, "methods": []})
            names = [*mine["methods"], *at.get("methods", [])]
            mine["methods"] = list(dict.fromkeys(names))
    spent = [read_spending(f) for f in folders]
    cells: dict[tuple[Any, ...], Any] = {}
    for one in spent:
        for row in one.get("cells", []):
            cells.setdefault(tuple(row[name] for name in STUDY), row)
    mismatches = [why for one in spent for why in one.get("mismatches", [])]
    spending = {
        schema.KEY: schema.VERSION,
        "valid": not mismatches,
        "mismatches": list(dict.fromkeys(mismatches)),
        "flops": {k: v for one in spent for k, v in one.get("flops", {}).items()},
        "skipped": [row for one in spent for row in one.get("skipped", [])],
        "cells": list(cells.values()),
    }
    write_evidence(target, found, spending)
    write_frame(joined(frames), target / "frame.parquet")
