"""Command lines of every command, and its TOML files."""

import contextlib
import math
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import strategies as st

from jobs.experiments.fuzzing.surface import Surface, exit_of
from raymeta import cli
from raymeta.cli.compare import CompareSettings
from raymeta.cli.diagnose import DiagnoseSettings
from raymeta.cli.optimize import OptimizeSettings
from raymeta.cli.train import TrainSettings

SETTINGS: dict[str, Any] = {
    "compare": CompareSettings,
    "optimize": OptimizeSettings,
    "train": TrainSettings,
    "diagnose": DiagnoseSettings,
}
#: Where the work of each command begins, by module and name: what is before is fuzzed.
WORK = {
    "compare": [("raymeta.search.compare", "_run")],
    "optimize": [
        ("raymeta.outer.optimize", "descended"),
        ("raymeta.search.named", "optimized"),
        ("raymeta.workers", "Run"),
    ],
    "train": [("raymeta.train.run", "_Driver")],
    "diagnose": [("raymeta.analysis", "draw_diagnosis")],
    "report": [("raymeta.analysis", "write_report")],
    "list": [],
}
NAMES = ["quadratic", "noisy-quadratic", "digts", "random", "reverse", "maml", "es"]
NAMES += ["sinusoid", "functa", "few-shot-digits", "Adam", "x.py:Name", "x.py", "all"]
WORDS = ["", " ", ".", "..", "-1", "--", "a/b", "s3://", "s3://k:s@b/x", "NaN", "x=1"]
WORDS += ["1e400", "0", "1_0", "½", "\u202eabc", "a\nb", "$x$", "'", "{}", "~", "%s"]

_text = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(WORDS),
    # Not absolute: what a case writes stays in its folder.
    st.text(max_size=6).filter(lambda text: not text.startswith(("/", "~", ".."))),
    st.integers(-3, 20).map(str),
    st.integers().map(str),
    st.floats().map(str),
)


def _flags_of(command: str) -> list[str]:
    fields = SETTINGS[command].__dataclass_fields__ if command in SETTINGS else ()
    flags = [f"--{name.replace('_', '-')}" for name in fields]
    flags += ["--json", "--quiet", "--config", "--dry-run", "--nme", "--storage"]
    return [*flags, "--surface", "--points", "--task", "--trust"]


def _lines(command: str) -> st.SearchStrategy[list[str]]:
    """A command with up to four flags, each with up to three words."""
    flag = st.sampled_from(_flags_of(command))
    given = st.tuples(flag, st.lists(_text, max_size=3))
    some = st.lists(given, max_size=4)
    words = some.map(lambda pairs: [word for f, words in pairs for word in (f, *words)])
    first = (
        st.lists(_text, max_size=1) if command in ("report", "list") else st.just([])
    )
    return st.tuples(first, words).map(lambda both: [command, *both[0], *both[1]])


def _wrong_line(line: list[str]) -> str:
    with _without_work(line[0]):
        return exit_of(lambda: cli.main(line))


@contextlib.contextmanager
def _without_work(command: str) -> Iterator[None]:
    """Where the work would begin, Ctrl-C: files and settings were understood."""
    # All before the first is replaced: what one imports of another must stay.
    places = [(import_module(module), name) for module, name in WORK[command]]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", ["raymeta", command]))
        for place, name in places:
            stop = mock.Mock(side_effect=KeyboardInterrupt)
            stack.enter_context(mock.patch.object(place, name, stop))
        yield


# ---------------------------------------------------------------------- TOML files


def _toml(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = "".join(
            c
            if c.isascii() and c.isprintable() and c not in '"\\'
            else rf"\U{ord(c):08x}"
            for c in value
        )
        return f'"{escaped}"'
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        items = (f"{_toml(name)} = {_toml(each)}" for name, each in value.items())
        return f"{{{', '.join(items)}}}"
    return repr(value) if isinstance(value, int | float) else str(value)


_scalar = st.one_of(
    _text.filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)),
    st.integers(-3, 20),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.dates(),
)
_value = (
    _scalar
    | st.lists(_scalar, max_size=3)
    | st.dictionaries(_text, _scalar, max_size=2)
)


def _files(command: str) -> st.SearchStrategy[tuple[str, bytes]]:
    """A table with some of the command's settings, or any bytes."""
    names = st.sampled_from([*SETTINGS[command].__dataclass_fields__, "nme", "x.y"])
    table = st.dictionaries(names, _value, max_size=4).map(
        lambda table: "".join(
            f"{name} = {_toml(each)}\n" for name, each in table.items()
        ).encode(errors="replace")
    )
    anything = st.binary(max_size=20) | st.text(max_size=20).map(
        lambda text: text.encode(errors="replace")
    )
    return st.tuples(st.just(command), st.one_of(table, table, table, anything))


def _wrong_file(case: tuple[str, bytes]) -> str:
    command, content = case
    Path("settings.toml").write_bytes(content)
    with _without_work(command):
        return exit_of(lambda: cli.main([command, "--config", "settings.toml"]))


SURFACES = {
    **{
        f"{command} line": Surface(f"raymeta {command}", _lines(command), _wrong_line)
        for command in WORK
    },
    **{
        f"{command} file": Surface(
            f"raymeta {command} --config", _files(command), _wrong_file
        )
        for command in SETTINGS
    },
}
