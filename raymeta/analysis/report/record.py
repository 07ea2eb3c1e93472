"""Records of a folder besides its frame: settings, spending, evidence."""

import re
from pathlib import Path
from typing import Any

from raymeta.results.records import Record, read_record

#: A hyperparameter in the text of a `Space`.
DOMAIN = re.compile(r"([^\s,(]+)=(Positive|Unit|Real|Choice)\(")


def read_settings(folder: Path) -> Record:
    """Read the record of a comparison, or else of an optimization."""
    return read_record(folder, "comparison") or read_record(folder, "optimization")


def domains(record: Record) -> dict[str, dict[str, str]]:
    """Kind of domain of every hyperparameter, by task and name, as recorded."""
    return {
        name: dict(DOMAIN.findall(task["space"]))
        for name, task in record.get("tasks", {}).items()
    }


def evidence_columns(record: Record) -> dict[str, list[str]]:
    """That all methods began alike: hashes per task and seed.

    Args:
        record: what evidence.json holds; empty without it.
    """
    rows = [
        (task, seed, hashes)
        for task, seeds in record.items()
        for seed, hashes in seeds.items()
    ]
    kinds = dict.fromkeys(kind for _, _, found in rows for kind in found)
    kinds.pop("methods", None)
    return {
        "task": [task for task, _, _ in rows],
        "seed": [str(seed) for _, seed, _ in rows],
        "methods": [str(len(found.get("methods", []))) for _, _, found in rows],
        **{kind: [_digits(found.get(kind)) for _, _, found in rows] for kind in kinds},
    }


def _digits(value: Any) -> str:
    """Twelve digits of a hash, or of each where they differ."""
    if value is None:
        return "not recorded"
    return " != ".join(digest[:12] for digest in str(value).split(" != "))
