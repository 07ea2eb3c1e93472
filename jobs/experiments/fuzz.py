"""Property-based fuzzing of everything that takes what strangers give.

Constructors, command lines, TOML files, the files of a folder of results and the
cluster's own file are given what hypothesis makes up: arguments of other types and
sizes, flags of any text, tables of any keys, files of which bytes or values changed.
Each case must be taken, or refused in one line; what single precision cannot hold must
not silently become 0 or infinity, nor a changed file be believed.

`python -m jobs.experiments.fuzz --cases 2000 [--surface NAME …] [--out FOLDER]`
"""

import argparse
import contextlib
import os
import re
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from hypothesis import HealthCheck, Phase, given, settings

from jobs.experiments.fuzzing import commands, constructors, readers
from jobs.experiments.fuzzing.surface import Surface

SURFACES = {**constructors.SURFACES, **commands.SURFACES, **readers.SURFACES}

#: Kinds of failures of one surface that are looked for before it is left.
MOST_KINDS = 30
#: Bytes of address space: what would take the machine's memory fails instead.
MOST_BYTES = 16 * 2**30


class Found(NamedTuple):
    """What became of a surface.

    Attributes:
        surface: its name.
        about: what it is.
        cases: how many were tried.
        seconds: that this took.
        wrong: kind of failure -> the smallest case that was found of it.
    """

    surface: str
    about: str
    cases: int
    seconds: float
    wrong: dict[str, str]


def fuzzed(name: str, cases: int, *, derandomize: bool = False) -> Found:
    """Try a surface until a round of all cases finds no failure of a new kind.

    Args:
        name: of `SURFACES`.
        cases: cases of a round; hypothesis ends earlier where there are no more.
        derandomize: whether the cases are the same each time.
    """
    surface, start = SURFACES[name], time.monotonic()
    known: dict[str, str] = {}
    while len(known) < MOST_KINDS:
        count, found = _round(surface, cases, known, derandomize)
        if not found:
            break
        known |= found
    return Found(name, surface.about, count, time.monotonic() - start, known)


def _round(
    surface: Surface, cases: int, known: dict[str, str], derandomize: bool
) -> tuple[int, dict[str, str]]:
    """(cases tried, the failure of a new kind with the smallest case, if any)."""
    count, latest = 0, dict[str, str]()

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=derandomize,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(surface.cases)
    def holds(case: object) -> None:
        nonlocal count
        count += 1
        wrong = surface.wrong(case)
        kind = _kind(wrong)
        if wrong and kind not in known:
            latest.clear()
            latest[kind] = f"{wrong} <- {_shown(case)}"
            raise AssertionError(kind)

    try:
        holds()
    except Exception:  # the failure, or that hypothesis cannot print its case
        if not latest:
            raise
        return count, latest
    return count, {}


def _kind(wrong: str) -> str:
    """A failure without what differs from case to case."""
    return re.sub(r"'.*'|\d{3,}|(?<=: ).*", "…", wrong)


def _shown(case: object) -> str:
    try:
        return repr(case)[:400]
    except Exception:
        return f"an object of {type(case).__name__}"


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """In a folder of its own, where relative paths lead nowhere else."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def main(arguments: list[str] | None = None) -> None:
    """Fuzz surfaces, print the table, and end with 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--surface", nargs="+", choices=SURFACES, default=[*SURFACES])
    parser.add_argument("--out", type=Path, help="folder for fuzz.csv")
    options = parser.parse_args(arguments)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, hard))
    rows = []
    for name in options.surface:
        with aside():
            found = fuzzed(name, options.cases)
        rows.append({**found._asdict(), "wrong": len(found.wrong)})
        print(
            f"{name}: {found.cases} cases in {found.seconds:.0f} s, "
            f"{len(found.wrong)} kinds of failures",
            flush=True,
        )
        for example in found.wrong.values():
            print(f"    {example}", flush=True)
    table = pd.DataFrame(rows)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.out / "fuzz.csv", index=False)
    if table["wrong"].any():
        raise SystemExit(1)


if __name__ == "__main__":
    main()
