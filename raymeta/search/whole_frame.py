"""All that a comparison's folder has: also studies that this call does not show."""

import time
from collections.abc import Mapping, Set
from typing import Any

import pandas as pd

from raymeta.results import schema
from raymeta.results.records import read_evidence, read_spending, write_evidence
from raymeta.results.run_folder import RunFolder
from raymeta.results.tensorboard import TensorBoardWriter, show_comparison
from raymeta.results.together import joined
from raymeta.results.validity import mark, marked
from raymeta.search.fairness import DIFFERS, Fingerprint, reasons
from raymeta.search.frame import to_frame
from raymeta.search.spec import StudyKey
from raymeta.search.study.coordinator import Coordinator

#: Seconds between two writings of the frame, at least.
SAVE_EVERY_S = 30.0

Evidence = Mapping[str, Mapping[str, Mapping[str, Any]]]


class WholeFrame:
    """Writes what is shown, beside what the folder has besides.

    Args:
        folder: of the comparison.
        shown: names of the studies that the call shows.

    Attributes:
        folder: of the comparison.
    """

    def __init__(self, folder: RunFolder, shown: Set[str]) -> None:
        self.folder, self._shown = folder, shown
        self._rest: pd.DataFrame | None = None
        if folder.frame.exists():
            found = marked(folder.read(), folder.path)
            rest = found[~_is_of(found, shown)]
            self._rest = None if rest.empty else rest

    def write(self, frame: pd.DataFrame) -> None:
        """Write the frame of what is shown, and the rest."""
        if self._rest is not None:
            frame = joined([frame, self._rest])
        self.folder.write(frame)

    def write_records(self, evidence: Evidence, spending: dict[str, Any]) -> None:
        """Write evidence.json and spending.json; mark what trained on other things."""
        found = self._merged(evidence)
        write_evidence(self.folder.path, found, self._with_rest(spending))
        if self._rest is not None and reasons(found):
            frame = self.folder.read()
            self.folder.write(mark(frame, reasons(found)))

    def _with_rest(self, spending: dict[str, Any]) -> dict[str, Any]:
        """The spending of what is shown, and of the rest."""
        before = read_spending(self.folder.path)
        cells = [
            row
            for row in before.get("cells", [])
            if str(StudyKey(row["task"], row["method"], row["seed"])) not in self._shown
        ]
        merged = {**spending, "cells": [*spending["cells"], *cells]}
        if cells:
            merged["flops"] = {**before.get("flops", {}), **spending["flops"]}
            old = before.get("mismatches", ())
            merged["mismatches"] = list(dict.fromkeys([*spending["mismatches"], *old]))
            merged["valid"] = not merged["mismatches"]
        return merged

    def _merged(self, evidence: Evidence) -> dict[str, dict[str, dict[str, Any]]]:
        """The evidence of what is shown, and of the rest."""
        found: dict[str, dict[str, dict[str, Any]]] = {
            task: {seed: dict(at) for seed, at in seeds.items()}
            for task, seeds in evidence.items()
        }
        for task, seeds in read_evidence(self.folder.path).items():
            for seed, at in seeds.items():
                names = at.get("methods", [])
                if all(f"{task}/{name}/{seed}" in self._shown for name in names):
                    continue
                mine = found.setdefault(task, {}).get(seed, {})
                found[task][seed] = {
                    kind: DIFFERS.join(
                        dict.fromkeys([*_digests(mine, kind), *_digests(at, kind)])
                    )
                    for kind in Fingerprint._fields
                } | {"methods": list(dict.fromkeys([*mine.get("methods", []), *names]))}
        return found


class FrameSaver:
    """Writes the frame now and then, a large one less often, and shows it."""

    def __init__(self, coordinator: Coordinator, whole: WholeFrame) -> None:
        self._coordinator, self._whole = coordinator, whole
        self._tensorboard = TensorBoardWriter(whole.folder.path)
        self._due = time.monotonic() + SAVE_EVERY_S

    def save_if_due(self) -> None:
        """Save when the last time is long ago."""
        if time.monotonic() > self._due:
            self.save(self._tensorboard.is_due())

    def save(self, show: bool = True) -> None:
        """Save, and plan the next time so that saving takes at most 5 % of it all."""
        start = time.monotonic()
        frame = to_frame(self._coordinator.studies.values())
        self._whole.write(frame)
        if show:
            show_comparison(self._tensorboard, frame)
        took = time.monotonic() - start
        self._due = start + max(SAVE_EVERY_S, 20 * took)


def of_studies(frame: pd.DataFrame, names: Set[str]) -> pd.DataFrame:
    """The rows of some studies, and the columns that these use."""
    mask = _is_of(frame, names)
    if mask.all():
        return frame
    rows = frame[mask].reset_index(drop=True)
    extra = [
        column
        for column in rows
        if column not in schema.REPORTS
        and column != f"{schema.TEST}loss"
        and rows[column].isna().all()
    ]
    return rows.drop(columns=extra)


def _is_of(frame: pd.DataFrame, names: Set[str]) -> pd.Series:
    keys = zip(frame["task"], frame["method"], frame["seed"], strict=True)
    found = [str(StudyKey(*key)) in names for key in keys]
    return pd.Series(found, index=frame.index, dtype=bool)


def _digests(at: Mapping[str, Any], kind: str) -> list[str]:
    return at[kind].split(DIFFERS) if kind in at else []
