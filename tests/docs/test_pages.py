"""Everything that README.md and docs/ say to run runs; what they name exists."""

import argparse
import re
import shlex
import tomllib
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name

import pytest

from raymeta.cli import main, parser
from raymeta.tasks.loading import KINDS
from tests.docs import methods_page
from tests.docs.pages import (
    PAGES,
    ROOT,
    blocks,
    prose,
    require_printed,
    require_same,
    text,
)

#: In test_pages_with_ray.py.
WITH_RAY = {"README.md", "docs/distributed.md", "docs/fairness.md", "docs/tune.md"}


@pytest.mark.parametrize("page", [page for page in PAGES if page not in WITH_RAY])
def test_python_runs_and_prints_what_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_printed(page)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_have_a_language_that_is_checked(page):
    for block in blocks(page):
        known = block.language in {"", "python", "bash", "toml"} or block.why
        assert known, f"{page}:{block.line}"
        if block.language == "toml":
            tomllib.loads(block.code)


def _commands(page):
    """Commands of shell blocks and of the text, each with where it stands."""
    for block in blocks(page):
        if block.language == "bash" and not block.why:
            lines = block.code.replace("\\\n", " ").splitlines()
            commands = re.split(r" && | & |\n", "\n".join(lines))
            printed = block.printed if len(commands) == 1 else None
            for command in commands:
                yield f"{page}:{block.line}", command.partition(" #")[0], printed
    for code in re.findall(r"`([^`]+)`", prose(page)):
        if re.match(r"(raymeta|python( -m)?) [\w/.]+", code) and "…" not in code:
            yield page, " ".join(code.split()), None


#: What takes the flags of a command.
JOBS = {
    "jobs/compare.py": "compare",
    "jobs/meta_train.py": "train",
    "jobs/optimize.py": "optimize",
}
ALL = [found for page in PAGES for found in _commands(page)]


@pytest.mark.parametrize(("where", "command"), sorted({(w, c) for w, c, _ in ALL}))
def test_commands_exist_with_their_flags_and_files(where, command):
    words = [
        Path(word).name if "/bin/" in word else word for word in shlex.split(command)
    ]
    match words:
        case [] | ["#", *_] | ["export", _]:
            pass
        case ["raymeta", *arguments]:
            _parse(parser(), arguments, where)
        case ["python3", "-m", "venv", _]:
            pass
        case ["python", "-m", module, *arguments]:
            assert find_spec(module), where
            place = ROOT / module.replace(".", "/")
            source = place / "__main__.py" if place.is_dir() else f"{place}.py"
            said = set(re.findall(r'"(--[\w-]+)"', Path(source).read_text()))
            assert {word for word in arguments if word[:2] == "--"} <= said, where
        case ["python", script, *arguments] if script in JOBS:
            assert (ROOT / script).is_file(), where
            _parse(parser(), [JOBS[script], *arguments], where)
        case ["pip", "install", *arguments]:
            files = [b for a, b in pairwise(arguments) if a == "-r"]
            for file in files:
                assert (ROOT / file).is_file(), where
        case ["pytest", *arguments]:
            assert set(arguments) <= {"-n", "auto", "-m", "simulation"}, where
        case _:
            raise AssertionError(f"{where}: {command!r} is neither checked nor marked")


def _parse(flags: argparse.ArgumentParser, arguments: list[str], where: str) -> None:
    arguments = [word for word in arguments if word not in ("--help", "-h")]
    if arguments == ["report"]:
        arguments.append("folder")
    if arguments:
        try:
            given = flags.parse_args(arguments)
        except SystemExit:
            raise AssertionError(f"{where}: {arguments} does not parse") from None
        config = getattr(given, "config", None)
        if config and "/" in config:
            assert (ROOT / config).is_file(), where


PRINTING = [(where, command, printed) for where, command, printed in ALL if printed]


@pytest.mark.parametrize(("where", "command", "printed"), PRINTING)
def test_commands_print_what_the_page_says(
    where, command, printed, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    _, *arguments = shlex.split(command)
    assert main(arguments) == 0
    require_same(where, printed, capsys.readouterr().out)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_figures_are_there(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert anchor in {_anchor(title) for title in titles}, target


def _anchor(title: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_dotted_names_exist(page):
    names = set(re.findall(r"\braymeta(?:\.[a-zA-Z]\w*)+", text(page)))
    for name in names - {kind.group for kind in KINDS}:  # of entry points
        try:
            resolve_name(name)
        except ImportError as error:
            assert "pip install 'raymeta[" in str(error)  # noqa: PT017


def test_the_readme_is_short():
    assert len(text("README.md").splitlines()) < 150
    assert len(text("README.md").encode()) <= 10_000


def test_the_readme_has_the_test_command_of_the_checks():
    ran = (ROOT / ".ci" / "run").read_text()
    command = next(line for line in ran.splitlines() if "pytest -n auto" in line)
    assert command in text("README.md")


def test_the_page_of_methods_is_up_to_date():
    written = methods_page.PATH.read_text(encoding="utf-8")
    assert written == methods_page.page(), "run python -m tests.docs.methods_page"
