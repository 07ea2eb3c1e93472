"""Every module has a test of its name, or a line in tests/README.md."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "raymeta"


def _rows():
    """(patterns of modules, files of tests) of each row of the table."""
    for row in (TESTS / "README.md").read_text().splitlines():
        if row.startswith("| `"):
            yield [re.findall(r"`([^`]+)`", cell) for cell in row.split("|")[1:3]]


def _without_own_test():
    modules = {p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py")}
    for module in modules:
        own = TESTS / module.parent / f"test_{module.stem.lstrip('_')}.py"
        if not module.stem.startswith("__") and not own.exists():
            yield module


def test_every_module_is_tested_somewhere():
    patterns = [pattern for row, _ in _rows() for pattern in row]
    lost = [
        str(module)
        for module in _without_own_test()
        if not any(module.match(pattern) for pattern in patterns)
    ]
    assert not lost, f"give them a test of their name, or a row: {lost}"


def test_the_table_names_what_there_is():
    modules = list(_without_own_test())
    for patterns, files in _rows():
        assert [f for f in files if not (TESTS / f).is_file()] == []
        dead = [p for p in patterns if not any(m.match(p) for m in modules)]
        assert dead == [], "these modules have tests of their own, or are gone"
