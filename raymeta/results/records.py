"""Records of a folder beside its frame, as they are read back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raymeta.results.integrity import WRITTEN_AGAIN, read_json
from raymeta.results.schema import KEY, current_record

Record = dict[str, Any]

#: What the record of each kind of run has, in every version.
NEEDS: Mapping[str, Mapping[str, type]] = {
    "comparison": dict.fromkeys(("tasks", "methods", "budgets"), dict)
    | dict.fromkeys(("seeds", "runs"), list),
    "optimization": {"task": str, "estimator": str, "runs": list},
    "training": {"algorithm": str, "family": str, "runs": list},
    "diagnosis": {"task": str, "runs": list},
}


def read_record(folder: Path, kind: str) -> Record:
    """The record of a run; empty where the folder has none of this kind.

    Raises:
        DamagedFile: it is not as it was written, of a newer version, or not ours.
    """
    record = read_json(folder / f"{kind}.json", needs=NEEDS[kind])
    return current_record(record) if record else {}


def read_spending(folder: Path) -> Record:
    """What a comparison spent, see `spending_of`; empty where nothing says it.

    Raises:
        DamagedFile: likewise.
    """
    found = read_json(folder / "spending.json", WRITTEN_AGAIN)
    return current_record(found) if found else {}


def read_evidence(folder: Path) -> Record:
    """What methods trained on, see `evidence_of`; empty where nothing says it.

    Raises:
        DamagedFile: likewise.
    """
    found = read_json(folder / "evidence.json", WRITTEN_AGAIN)
    found.pop(KEY, None)
    return found
