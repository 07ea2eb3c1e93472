"""A finished comparison is said again at once, and only while nothing has changed."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from raymeta.cli import finished
from raymeta.cli.compare import CompareSettings

SAID = {"folder": "here", "text": "the ranking", "ranking": [{"method": "tpe"}]}


@pytest.fixture
def settings(tmp_path):
    """Of a comparison whose folder is there."""
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "frame.parquet").write_bytes(b"rows")
    (folder / "comparison.json").write_text(json.dumps({"cells": {"a/tpe/0": True}}))
    (tmp_path / "mine.py").write_text("class Mine: pass")
    task = f"{tmp_path / 'mine.py'}:Mine"
    settings = CompareSettings(tasks=(task,), name="x", storage=str(tmp_path))
    finished.keep(settings, "x", SAID)
    return settings


def test_what_was_said_is_said_again(settings):
    assert finished.recall(settings, "x") == SAID
    assert finished.recall(replace(settings, slots=7), "x") == SAID
    finished.keep(replace(settings, name=None), "x", SAID)
    assert finished.recall(settings, "x") == SAID


@pytest.mark.parametrize(
    "change",
    [
        lambda s, folder: replace(s, seeds=4),
        lambda s, folder: replace(s, methods=("tpe",)),
        lambda s, folder: (folder / "frame.parquet").write_bytes(b"other rows"),
        lambda s, folder: (folder / "comparison.json").write_text("{}"),
        lambda s, folder: (folder.parent / "mine.py").write_text("class Mine: x = 1"),
        lambda s, folder: (folder.parent / "helper.py").write_text("x = 1"),
        lambda s, folder: (folder / finished.FILE).write_text('{"key": '),
        lambda s, folder: (folder / finished.FILE).unlink(),
    ],
)
def test_not_where_anything_has_changed(settings, change, tmp_path):
    changed = change(settings, tmp_path / "x")
    now = changed if isinstance(changed, CompareSettings) else settings
    assert finished.recall(now, "x") is None


def test_what_is_not_finished_or_elsewhere_is_not_kept(settings, tmp_path):
    (tmp_path / "x" / finished.FILE).unlink()
    (tmp_path / "x" / "comparison.json").write_text('{"cells": {"a/tpe/0": false}}')
    finished.keep(settings, "x", SAID)
    assert not (tmp_path / "x" / finished.FILE).exists()
    assert finished.recall(replace(settings, storage="s3://there"), "x") is None
    assert finished.recall(settings, None) is None


@pytest.mark.parametrize(
    ("invalid", "code", "error"),
    [("", 0, ""), ("INVALID, for …", 2, "raymeta: error: the comparison in here is")],
)
def test_the_command_loads_nothing_heavy_for_it(settings, invalid, code, error):
    finished.keep(settings, "x", {**SAID, "invalid": invalid})
    arguments = ["compare", "--tasks", *settings.tasks, "--name", "x"]
    arguments += ["--storage", settings.storage, "--json"]
    program = (
        "import sys; from raymeta.cli import main; "
        f"code = main({arguments}); "
        "heavy = {'torch', 'ray', 'pandas', 'pyarrow', 'matplotlib', 'numpy'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); sys.exit(code)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ,
        check=False,
    )
    assert ran.returncode == code, ran.stderr
    assert json.loads(ran.stdout)["ranking"] == SAID["ranking"]
    assert ran.stderr.startswith(error)
