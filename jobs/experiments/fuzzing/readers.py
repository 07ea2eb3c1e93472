"""Files that are read back, and the cluster's own: bytes and values of them changed."""

import copy
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import torch
import yaml
from hypothesis import strategies as st

from jobs.experiments.damaged_folders import KINDS, NAME
from jobs.experiments.fuzzing.surface import Surface, refusal
from raymeta import analysis, meta
from raymeta.optim import load_schedule
from raymeta.results import records
from raymeta.results.integrity import with_checksum
from raymeta.results.jsonlines import JsonLines
from raymeta.results.tensors import load_tensors
from raymeta.runtime import cluster
from raymeta.train import checkpoints

ROOT = Path(__file__).parents[3]


class Reader(NamedTuple):
    """A file of a run, and how it is read.

    Attributes:
        kind: of `damaged_folders.KINDS`, in whose folder it is.
        pattern: of its name.
        read: takes its path.
        sealed: whether its checksum tells when it was changed.
    """

    kind: str
    pattern: str
    read: Callable[[Path], Any]
    sealed: bool = True


def _lines(path: Path) -> tuple[Any, str]:
    """The records, and what is said of those that are missing."""
    lines = JsonLines(path)
    return lines.read(), lines.damage


def _record(path: Path) -> Any:
    return records.read_record(path.parent, path.stem)


def _reported(path: Path) -> Any:
    frame = analysis.read(path)
    analysis.format_ranking(analysis.ranking(frame))
    return frame


READERS = {
    "journals": [Reader("interrupted", "journal.jsonl", _lines)],
    "frames": [
        Reader("comparison", "frame.parquet", _reported),
        Reader("training", "frame.parquet", lambda p: analysis.read_training(p.parent)),
    ],
    "records": [
        Reader("comparison", "comparison.json", _record),
        Reader("optimization", "optimization.json", _record),
        Reader("training", "training.json", _record),
        Reader(
            "comparison", "spending.json", lambda p: records.read_spending(p.parent)
        ),
        Reader(
            "comparison", "evidence.json", lambda p: records.read_evidence(p.parent)
        ),
    ],
    "checkpoints": [
        Reader("training", "seed-0/best.pt", checkpoints.read),
        Reader("training", "seed-0/step-*.pt", lambda path: meta.load(path).theta()),
        Reader("optimization", ".states/**/snapshot.pt", load_tensors),
    ],
    "schedules": [Reader("optimization", "schedule.json", load_schedule, sealed=False)],
}


@functools.cache
def _made(kind: str) -> Path:
    """The folder of a run of this kind, which goes with the process."""
    storage = Path(tempfile.mkdtemp(prefix="raymeta-fuzz-"))
    _rooms.append(storage)
    KINDS[kind].make(storage)
    return storage / NAME


_rooms: list[Path] = []


def clear() -> None:
    """Remove the folders that were made."""
    _made.cache_clear()
    while _rooms:
        shutil.rmtree(_rooms.pop(), ignore_errors=True)


# ------------------------------------------------------------------ changes of bytes

_places = st.floats(0, 1, exclude_max=True)
#: What is done at a share of the file: (name, where, bytes or another place).
_changes = st.one_of(
    st.tuples(st.just("put"), _places, st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("insert"), _places, st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("flip"), _places, st.integers(0, 7)),
    st.tuples(st.just("cut"), _places, st.just(b"")),
    st.tuples(st.just("leave out"), _places, st.integers(1, 99)),
    st.tuples(st.just("twice"), _places, st.integers(1, 99)),
)


def _changed(content: bytes, change: tuple[str, float, Any]) -> bytes:
    name, share, by = change
    at = int(share * len(content))
    before, after = content[:at], content[at:]
    match name:
        case "put":
            return before + by + after[len(by) :]
        case "insert":
            return before + by + after
        case "flip":
            return before + bytes([after[0] ^ 1 << by]) + after[1:] if after else before
        case "cut":
            return before
        case "leave out":
            return before + after[by:]
    return before + after[:by] + after


# ----------------------------------------------------------------- changes of values

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def _places_of(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values inside a JSON or YAML value."""
    yield at
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for name, each in items:
        yield from _places_of(each, (*at, name))


def _replaced(value: Any, share: float, by: Any) -> Any:
    """A copy in which the value at a share of all places is another."""
    places = list(_places_of(value))
    *outer, last = (None, *places[int(share * len(places))])
    whole = {None: copy.deepcopy(value)}
    functools.reduce(lambda at, name: at[name], outer, whole)[last] = by
    return whole[None]


def _with_value(content: bytes, share: float, by: Any, how: str) -> bytes:
    """A JSON file, or one line of many, with another value.

    Its checksum is that of before, is made anew, or goes with the version, as in files
    of before there were any.
    """
    lines = content.splitlines() if content.count(b"\n{") > 1 else [content]
    place = int(share * len(lines))
    value = _replaced(json.loads(lines[place]), share * len(lines) % 1, by)
    if isinstance(value, dict) and how == "anew":
        value.pop("crc32", None)
        text = json.dumps({**value, "crc32": "0" * 8}).encode()
        lines[place] = with_checksum(text)
    else:
        if isinstance(value, dict) and how == "of before":
            value = {k: v for k, v in value.items() if k not in ("crc32", "schema")}
        lines[place] = json.dumps(value).encode()
    return b"\n".join(lines) + b"\n"


def _cases(readers: list[Reader]) -> st.SearchStrategy[Any]:
    reader = st.sampled_from(range(len(readers)))
    of_bytes = st.lists(_changes, min_size=1, max_size=3)
    how = st.sampled_from(["as before", "anew", "of before"])
    if all(each.pattern.endswith((".json", ".jsonl")) for each in readers):
        return st.tuples(reader, of_bytes | st.tuples(_places, _json, how))
    return st.tuples(reader, of_bytes)


def _wrong(readers: list[Reader], case: Any) -> str:
    number, change = case
    reader = readers[number]
    file = sorted(_made(reader.kind).glob(reader.pattern))[-1]
    before, mode = file.read_bytes(), os.stat(file)
    content = before
    if isinstance(change, list):
        for each in change:
            content = _changed(content, each)
    else:
        content = _with_value(before, *change)
    expected = _read(str(file), reader)
    try:
        file.write_bytes(content)
        found, wrong = refusal(lambda: reader.read(file))
    finally:
        file.write_bytes(before)
        os.utime(file, ns=(mode.st_atime_ns, mode.st_mtime_ns))
    if wrong or found is None or not reader.sealed or not isinstance(change, list):
        return wrong
    return _believed(found, expected)


@functools.cache
def _read(file: str, reader: Reader) -> Any:
    """What the file says while it is whole."""
    return reader.read(Path(file))


def _believed(found: Any, expected: Any) -> str:
    """Whether numbers were taken that nobody wrote, without a word."""
    if isinstance(found, tuple):  # records, of which the rest is said to be missing
        (lines, damage), (all_lines, _) = found, expected
        lost = len(lines) < len(all_lines) and not damage
        cut = lost and lines == all_lines[: len(lines)]  # at the end of a line
        known = lines == all_lines[: len(lines)]
        return "" if (known and not lost) or cut else f"believed: {lines[-1:]}"
    return "" if _is_same(found, expected) else "believed: another content"


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, pd.DataFrame):
        return one.equals(other)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=True)
    if isinstance(one, dict):
        names = one.keys() == other.keys()
        return names and all(_is_same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return one == other or (one != one and other != other)


# ----------------------------------------------------------------- the cluster's file


def _cluster_files() -> st.SearchStrategy[bytes]:
    """cluster.yaml with another value somewhere, or other bytes."""
    whole = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    content = yaml.safe_dump(whole).encode()
    value = st.tuples(_places, _json).map(
        lambda pair: yaml.safe_dump(_replaced(whole, *pair)).encode()
    )
    of_bytes = _changes.map(lambda change: _changed(content, change))
    return value | of_bytes | st.binary(max_size=30)


def _wrong_cluster(content: bytes) -> str:
    file = Path("ray_bootstrap_config.yaml")
    file.write_bytes(content)
    with mock.patch.object(cluster, "BOOTSTRAP", str(file)):
        return refusal(cluster.groups)[1]


SURFACES = {
    **{
        name: Surface(
            ", ".join(dict.fromkeys(reader.pattern for reader in readers)),
            _cases(readers),
            functools.partial(_wrong, readers),
        )
        for name, readers in READERS.items()
    },
    "cluster": Surface("cluster.yaml", _cluster_files(), _wrong_cluster),
}
