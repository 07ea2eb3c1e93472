"""What a folder records besides its frame: settings, runs, evidence."""

import json
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from raymeta.analysis.pages.html import (
    Markup,
    Section,
    code,
    heading,
    paragraph,
    table,
    words,
)

Record = dict[str, Any]


def read_record(folder: Path, name: str) -> Record:
    """Read a JSON file of the folder; empty where there is none."""
    file = folder / name
    return json.loads(file.read_text()) if file.is_file() else {}


def pairs(items: Mapping[str, str]) -> Markup:
    """A list of names and what they stand for."""
    rows = (
        f"<dt>{escape(name)}</dt>"
        f"<dd>{value if isinstance(value, Markup) else escape(value)}</dd>"
        for name, value in items.items()
    )
    return Markup(f"<dl>{''.join(rows)}</dl>")


def command_line(arguments: Iterable[str]) -> str:
    """The command that started a run, as one would type it."""
    program, *others = arguments
    name = Path(program).name
    typed = ["python", program] if name.endswith(".py") else [name]
    return shlex.join([*typed, *others])


def environment(record: Record) -> Section:
    """Where, when, by which command and with which versions it ran."""
    runs = record.get("runs", [])
    if not runs:
        text = "Not recorded: the folder holds a frame, and no record of its run."
        return Section("Reproduce it", [paragraph(text)])
    latest = runs[-1]
    body = [code(command_line(latest["command"]))]
    if len(runs) > 1:
        begun = ", ".join(run["started"] for run in runs)
        body.append(paragraph(f"It was started {len(runs)} times: {begun}."))
    said = {"started": latest["started"]}
    if commit := latest.get("commit"):
        dirty = commit.endswith("-dirty")
        plain = words(commit.removesuffix("-dirty"))
        said["commit"] = Markup(f"{plain}{', with uncommitted changes' * dirty}")
    said |= {name: str(value) for name, value in latest.get("machine", {}).items()}
    said["versions"] = ", ".join(f"{k} {v}" for k, v in latest["versions"].items())
    return Section("Reproduce it", [*body, heading("Environment"), pairs(said)])


def evidence(record: Record) -> Section:
    """That all methods began alike: hashes per task and seed."""
    rows = [
        (task, seed, hashes)
        for task, seeds in record.items()
        for seed, hashes in seeds.items()
    ]
    if not rows:
        return Section("Evidence of equal starts", [])
    kinds = list(dict.fromkeys(kind for _, _, hashes in rows for kind in hashes))
    columns = {
        "task": [task for task, _, _ in rows],
        "seed": [str(seed) for _, seed, _ in rows],
        **{kind: [_hash(h.get(kind)) for _, _, h in rows] for kind in kinds},
    }
    text = (
        "Hashes of the initial weights, of the data's split and of the order of "
        "batches, as every method found them under that seed."
    )
    return Section("Evidence of equal starts", [paragraph(text), table(columns)])


def _hash(value: Any) -> str:
    """Twelve digits of it."""
    return "not recorded" if value is None else words(str(value)[:12])
