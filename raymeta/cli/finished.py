"""A finished comparison, said again without torch, Ray or a figure being loaded.

What the command printed is kept beside the frame with a key: all on which it depends.
Where anything of that is no longer the same, the comparison itself decides what is.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import raymeta
from raymeta.results.atomic import atomic_write

FILE = ".shown.json"
#: What results depend on beside raymeta itself.
PACKAGES = ("torch", "ray", "numpy", "pandas", "scikit-learn", "scipy", "matplotlib")
GROUPS = ("raymeta.tasks",)
#: Settings on which no result depends.
BESIDE = ("slots", "name")


def recall(settings: Any, name: str | None) -> Mapping[str, Any] | None:
    """What was said of this comparison, if nothing has changed; else None."""
    if name is None or "://" in settings.storage:
        return None
    folder = Path(settings.storage) / name
    try:
        kept = json.loads((folder / FILE).read_text())
        known = kept["key"] == _key(settings, folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return kept["said"] if known else None


def keep(settings: Any, name: str, said: Mapping[str, Any]) -> None:
    """Keep what was said of a comparison in its folder."""
    folder = Path(settings.storage) / name
    if "://" in settings.storage or not _is_finished(folder):
        return
    try:
        key = _key(settings, folder)
    except OSError:
        return
    with atomic_write(folder / FILE) as file:
        file.write(json.dumps({"key": key, "said": said}).encode())


def _is_finished(folder: Path) -> bool:
    """Whether all that it knows is finished: not where a stopper ended it."""
    record = json.loads((folder / "comparison.json").read_text())
    cells = record.get("cells") or {}
    return bool(cells) and all(cells.values())


def _key(settings: Any, folder: Path) -> str:
    """All on which what is said depends: settings, code, versions, and the results."""
    # The folder stands for the name, which a first call need not have given.
    of_results = {k: v for k, v in asdict(settings).items() if k not in BESIDE}
    files = [folder / "frame.parquet", folder / "comparison.json", *_code(settings)]
    # Where a name is that of an installed package, of that, too.
    points = sorted(
        f"{point.name} {point.value} {point.dist.version if point.dist else ''}"
        for group in GROUPS
        for point in metadata.entry_points(group=group)
    )
    parts = [of_results, platform.python_version(), points, *map(_stamp, files)]
    parts += [(package, metadata.version(package)) for package in PACKAGES]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _code(settings: Any) -> Iterator[Path]:
    """The files of raymeta, and those beside a task's own."""
    for root, _, names in os.walk(Path(raymeta.__file__).parent):
        yield from (Path(root, name) for name in names if name.endswith(".py"))
    for task in settings.tasks:
        if ".py" in task:
            own = Path(task.partition(".py")[0] + ".py").resolve()
            yield from sorted(own.parent.glob("*.py"))


def _stamp(file: Path) -> tuple[str, int, int]:
    stat = file.stat()
    return str(file), stat.st_size, stat.st_mtime_ns
