"""Records of a folder beside its frame, as they are read back."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raymeta.errors import one_line
from raymeta.results.atomic import atomic_write
from raymeta.results.integrity import (
    OTHER,
    WRITTEN_AGAIN,
    DamagedFile,
    json_bytes,
    read_bytes,
    read_json,
)
from raymeta.results.mirror import upload
from raymeta.results.schema import current_record

Record = dict[str, Any]

#: Under this key spending.json has checksums that evidence.json may have.
EVIDENCE = "evidence_crc32"

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
    file = folder / f"{kind}.json"
    return _current(file, read_json(file, needs=NEEDS[kind]), OTHER)


def read_spending(folder: Path) -> Record:
    """What a comparison spent, see `spending_of`; empty where nothing says it.

    Raises:
        DamagedFile: likewise.
    """
    file = folder / "spending.json"
    return _current(file, read_json(file, WRITTEN_AGAIN), WRITTEN_AGAIN)


def read_evidence(folder: Path) -> Record:
    """What methods trained on, see `evidence_of`; empty where nothing says it.

    Raises:
        DamagedFile: likewise.
    """
    file = folder / "evidence.json"
    if not file.exists():
        return {}
    known = read_spending(folder).get(EVIDENCE, [])
    if known and _checksum(read_bytes(file, WRITTEN_AGAIN)) not in known:
        reason = "its checksum is not that of its content"
        raise DamagedFile(file, reason, WRITTEN_AGAIN)
    return read_json(file, WRITTEN_AGAIN)


def write_evidence(folder: Path, evidence: Record, spending: Record) -> None:
    """Write spending.json, and evidence.json, whose checksum the first has.

    For who reads it, evidence.json has tasks and nothing else. Between the two writes
    that of the file before is as good.
    """
    file = folder / "evidence.json"
    content = json.dumps(evidence, indent=2).encode() + b"\n"
    before = [file.read_bytes()] if file.is_file() else []
    known = [_checksum(each) for each in (content, *before)]
    write_json({**spending, EVIDENCE: known}, folder / "spending.json")
    with atomic_write(file) as opened:
        opened.write(content)
    upload(file)


def write_json(value: Mapping[str, Any], path: Path) -> None:
    """Write JSON in one piece, also on the object store that the folder is on."""
    with atomic_write(path) as file:
        file.write(json_bytes(value))
    upload(path)


def _current(file: Path, found: Record, remedy: str) -> Record:
    """A record with today's names."""
    try:
        return current_record(found) if found else {}
    except (AttributeError, KeyError, TypeError) as error:
        reason = f"it is no file of raymeta ({one_line(error)})"
        raise DamagedFile(file, reason, remedy) from None


def _checksum(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"
