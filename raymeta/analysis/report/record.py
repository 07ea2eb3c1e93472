"""What a folder records besides its frame: settings, runs, evidence."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from raymeta.analysis.report.html import (
    Markup,
    Section,
    code,
    heading,
    paragraph,
    table,
    words,
)
from raymeta.analysis.tables.text import number
from raymeta.results.schema import current_record

Record = dict[str, Any]

#: A hyperparameter in the text of a `Space`.
DOMAIN = re.compile(r"([^\s,(]+)=(Positive|Unit|Real|Choice)\(")


def read_record(folder: Path, name: str) -> Record:
    """Read a JSON file of the folder; empty where there is none."""
    file = folder / name
    return json.loads(file.read_text()) if file.is_file() else {}


def read_settings(folder: Path) -> Record:
    """Read the record of a comparison, or else of an optimization."""
    return current_record(read_record(folder, "comparison.json")) or read_record(
        folder, "optimization.json"
    )


def domains(record: Record) -> dict[str, dict[str, str]]:
    """Kind of domain of every hyperparameter, by task and name, as recorded."""
    return {
        name: dict(DOMAIN.findall(task["space"]))
        for name, task in record.get("tasks", {}).items()
    }


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


def evidence(record: Record, spending: Record) -> Section:
    """That all methods began alike: hashes per task and seed.

    Args:
        record: What evidence.json holds; empty without it.
        spending: What spending.json holds; likewise.
    """
    rows = [
        (task, seed, hashes)
        for task, seeds in record.items()
        for seed, hashes in seeds.items()
    ]
    if not rows:
        return Section("Evidence of equal starts", [])
    kinds = dict.fromkeys(kind for _, _, found in rows for kind in found)
    kinds.pop("methods", None)
    columns = {
        "task": [task for task, _, _ in rows],
        "seed": [str(seed) for _, seed, _ in rows],
        "methods": [str(len(found.get("methods", []))) for _, _, found in rows],
        **{kind: [_hash(found.get(kind)) for _, _, found in rows] for kind in kinds},
    }
    unfair = spending.get("mismatches", [])
    verdict = (
        f"They are not the same for all methods: {'; '.join(unfair)}."
        if unfair
        else "They are the same for all methods."
    )
    text = (
        "Hashes of the initial weights, of the data's split and of the order of "
        f"batches, as the workers of every method found them. {verdict}"
    )
    body = [paragraph(text), table(columns)]
    if flops := spending.get("flops"):
        each = "; ".join(f"{task} {number(count)}" for task, count in flops.items())
        body.append(
            paragraph(
                "Floating-point operations of one training step, which is one gradient "
                f"evaluation (matrix products and elementwise operations): {each}."
            )
        )
    return Section("Evidence of equal starts", body)


def _hash(value: Any) -> str:
    """Twelve digits of it, or of each where they differ."""
    if value is None:
        return "not recorded"
    return words(" != ".join(digest[:12] for digest in str(value).split(" != ")))
