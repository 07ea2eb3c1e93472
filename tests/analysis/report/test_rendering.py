"""What templates are given to say."""

import pytest

from raymeta.analysis.report.rendering import (
    LARGE,
    command_line,
    drawing,
    is_numeric,
)


def test_columns_of_numbers_are_told_from_text():
    assert is_numeric(["1,000", "–", ""])
    assert is_numeric(["−0.5 to +0.2", "∞"])
    assert not is_numeric(["b", "2"])
    assert not is_numeric(["", ""])


def test_a_large_drawing_is_shown_as_pixels(tmp_path):
    (tmp_path / "a.svg").write_bytes(b"<" * (LARGE + 1))
    (tmp_path / "a.png").write_bytes(b"PNG")
    assert drawing(tmp_path / "a").startswith("data:image/png;base64,")
    (tmp_path / "a.svg").write_bytes(b"<" * LARGE)
    assert drawing(tmp_path / "a").startswith("data:image/svg+xml;base64,")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["/x/bin/raymeta", "compare"], "raymeta compare"),
        (["jobs/compare.py", "--name", "a b"], "python jobs/compare.py --name 'a b'"),
    ],
)
def test_commands_are_written_as_typed(arguments, line):
    assert command_line(arguments) == line
