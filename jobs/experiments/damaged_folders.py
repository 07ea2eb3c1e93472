"""Damaged folders of results: each is told in one line that names file and remedy.

Every file of a comparison that was interrupted, of one that has finished, of an
optimization and of a meta-training is damaged in every way that a disk, a person or
another program damages files: cut short, emptied, one bit flipped, replaced by a folder
or by a file of something else, made by a newer raymeta, removed. Of each such folder
the run is resumed, and a report is asked for. It must end in one of three ways: as
without the damage; with the same numbers, after a line that names the file; or with one
line that names file and remedy, and the exit code 2.

`python -m jobs.experiments.damaged_folders --out FOLDER` tries all of them.
"""

import argparse
import contextlib
import io
import re
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from raymeta import compare, optimize
from raymeta.cli import exit_code
from raymeta.cli.report import summarize
from raymeta.results.integrity import with_checksum
from raymeta.tasks import Quadratic
from raymeta.testing import in_process
from raymeta.train import TrainConfig, recipes, train

NAME = "x"
TASK = Quadratic(horizon=4)

#: The end of a line that says what to do.
REMEDY = re.compile(
    r": (restore|delete|use another name|read it with|finish it with|pass|start)"
)


class Kind(NamedTuple):
    """A folder, the call that makes it and goes on in it, and its files.

    Attributes:
        make: takes the storage, and returns the frame.
        resume: likewise.
        files: patterns of its files that are read back, one damaged file of each.
    """

    make: Callable[[Path], pd.DataFrame]
    resume: Callable[[Path], pd.DataFrame]
    files: tuple[str, ...]


class Outcome(NamedTuple):
    """What became of a damaged folder.

    Attributes:
        kind: the folder's.
        file: its damaged file.
        damage: how.
        command: what was asked for.
        code: the exit code; None where there was a traceback.
        said: what was said.
        verdict: "as before", "said", "refused"; else what is wrong.
    """

    kind: str
    file: str
    damage: str
    command: str
    code: int | None
    said: str
    verdict: str


def _compared(storage: Path, stop_after: int | None = None) -> pd.DataFrame:
    with in_process.comparisons(stop_after):
        return compare(
            TASK,
            ["random", "long_term"],
            budget=30,
            seeds=1,
            name=NAME,
            storage=storage,
            progress=False,
        )


def _interrupted(storage: Path) -> pd.DataFrame:
    with contextlib.suppress(KeyboardInterrupt):
        _compared(storage, stop_after=3)
    with tempfile.TemporaryDirectory() as other:
        return _compared(Path(other))


def _optimized(storage: Path) -> pd.DataFrame:
    found = optimize(TASK, "reverse", budget=30, name=NAME, storage=storage)
    return found.frame


def _config() -> TrainConfig:
    return recipes.recipe(
        "maml",
        "sinusoid",
        outer_steps=6,
        tasks_per_step=2,
        val_tasks=2,
        test_tasks=2,
        test_steps=1,
        checkpoint_every=2,
    )


def _trained(storage: Path) -> pd.DataFrame:
    return train(_config(), name=NAME, storage=storage, progress=print).frame


def _unfinished(storage: Path) -> pd.DataFrame:
    """A training that was ended before its evaluation."""
    frame = _trained(storage)
    record = storage / NAME / "training.json"
    content = re.sub(
        rb'"finished": \{[^}]*\}', b'"finished": null', record.read_bytes()
    )
    record.write_bytes(_resealed(content))
    return frame


_COMPARISON = (
    "comparison.json",
    "journal.jsonl",
    "frame.parquet",
    "evidence.json",
    "spending.json",
)
_TRAINING = (
    "training.json",
    "frame.parquet",
    "parts/*.parquet",
    "seed-0/step-*.pt",
    "seed-0/best.pt",
    "seed-0/pictures.npz",
)
KINDS = {
    "interrupted": Kind(_interrupted, _compared, _COMPARISON[:3]),
    "comparison": Kind(_compared, _compared, _COMPARISON),
    "optimization": Kind(
        _optimized,
        _optimized,
        (
            "optimization.json",
            "frame.parquet",
            "schedule.json",
            ".states/**/snapshot.pt",
            ".states/**/*.log",
        ),
    ),
    "training": Kind(_trained, _trained, _TRAINING),
    "unfinished": Kind(_unfinished, _trained, _TRAINING),
}


def _resealed(content: bytes) -> bytes:
    """The content with its checksum made anew."""
    empty = re.sub(
        rb'"crc32": "[0-9a-f]{8}"(?!.*"crc32")',
        b'"crc32": "00000000"',
        content,
        flags=re.DOTALL,
    )
    return with_checksum(empty) if empty != content or b"00000000" in empty else content


def _newer(file: Path) -> None:
    content = file.read_bytes()
    line, newline, rest = content.partition(b"\n")
    if file.suffix == ".jsonl":
        file.write_bytes(
            _resealed(line.replace(b'"version": 2', b'"version": 9')) + newline + rest
        )
        return
    file.write_bytes(_resealed(content.replace(b'"schema": 2', b'"schema": 9')))


def _flipped(share: float) -> Callable[[Path], None]:
    def flip(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[int(share * (len(content) - 1))] ^= 16
        file.write_bytes(content)

    return flip


def _cut(share: float) -> Callable[[Path], None]:
    def cut(file: Path) -> None:
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])

    return cut


def _replaced(content: bytes) -> Callable[[Path], None]:
    def replace(file: Path) -> None:
        file.write_bytes(content)

    return replace


def _folder(file: Path) -> None:
    file.unlink()
    (file / "inside").mkdir(parents=True)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut in the middle": _cut(0.5),
    "cut near its end": _cut(0.97),
    "a bit near its begin": _flipped(0.02),
    "a bit in the middle": _flipped(0.5),
    "a bit near its end": _flipped(0.98),
    "emptied": _cut(0.0),
    "a folder": _folder,
    "a picture": _replaced(b"\x89PNG\r\n\x1a\n" + bytes(range(256))),
    "text without a newline": _replaced(b"what was here before"),
    "JSON of something else": _replaced(b'{"event": [1, {"tasks": 3}]}\n'),
    "a newer version": _newer,
    "removed": lambda file: file.unlink(),
}
#: What changes nothing where the file does not say its version.
UNVERSIONED = (".npz", ".log")


def tried(
    name: str,
    original: Path,
    frame: pd.DataFrame,
    pattern: str,
    damage: str,
    commands: Sequence[str] = ("resume", "report"),
) -> Iterator[Outcome]:
    """Damage one file of a copy; resume it, and of another copy ask for a report.

    Args:
        name: of `KINDS`.
        original: the storage of the folder, which stays as it is.
        frame: what the run finds without damage.
        pattern: of `Kind.files`.
        damage: of `DAMAGES`.
        commands: what is asked for.
    """
    for command in commands:
        with tempfile.TemporaryDirectory() as copy:
            storage = Path(copy) / "results"
            shutil.copytree(original, storage)
            file = sorted((storage / NAME).glob(pattern))[-1]
            if damage == "a newer version" and file.suffix in UNVERSIONED:
                continue
            DAMAGES[damage](file)

            def go(storage: Path = storage, command: str = command) -> None:
                if command == "report":
                    summarize(str(storage / NAME))
                    return
                found = KINDS[name].resume(storage)
                require_equal(found, frame)

            code, said = ended(go)
            verdict = _verdict(code, said, file)
            yield Outcome(name, pattern, damage, command, code, said, verdict)


def ended(go: Callable[[], object]) -> tuple[int | None, str]:
    """The exit code, and all that was said."""

    def call() -> None:
        go()

    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        try:
            code: int | None = exit_code(call)
        except BaseException:
            code = None
            traceback.print_exc(file=out)
    return code, "\n".join([*(str(w.message) for w in warned), out.getvalue()])


def require_equal(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Raise where numbers differ by a bit, but for seconds and the attempt's number."""
    apart = ["wall_s", "step_s", "attempt"]
    frames = (frame.drop(columns=apart, errors="ignore") for frame in (found, expected))
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def _verdict(code: int | None, said: str, file: Path) -> str:
    if code is None:
        return "TRACEBACK"
    if code == 0:
        return "said" if file.name in said else "as before"
    lines = [line for line in said.splitlines() if "raymeta: error: " in line]
    if len(lines) != 1:
        return "NOT ONE LINE"
    # Of a file that is gone, its folder is all that can be known.
    name = file.name if file.exists() else file.parent.name
    if file.name not in lines[0] and f"/{name} " not in lines[0]:
        return "FILE NOT NAMED"
    return "refused" if REMEDY.search(lines[0]) else "NO REMEDY"


def main(arguments: list[str] | None = None) -> None:
    """Try them all, and write what became of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for name in options.kinds:
        with tempfile.TemporaryDirectory() as made:
            frame = KINDS[name].make(Path(made))
            for pattern in KINDS[name].files:
                for damage in DAMAGES:
                    outcomes += tried(name, Path(made), frame, pattern, damage)
    table = pd.DataFrame(outcomes)
    table.to_csv(options.out / "damaged_folders.csv", index=False)
    print(table.groupby(["kind", "command", "verdict"]).size().to_string())
    wrong = table[table["verdict"].str.isupper()]
    for row in wrong.itertuples():
        last = str(row.said).strip().splitlines()[-1:]
        print(
            f"{row.kind} {row.file} {row.damage} {row.command}: {row.verdict}: {last}"
        )
    print(f"{len(table)} damaged folders, {len(wrong)} of them wrong")
    if len(wrong):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
