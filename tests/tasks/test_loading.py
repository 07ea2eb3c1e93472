"""Tasks of users: in files, and in installed packages."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
from ray import cloudpickle

from raymeta import tasks
from raymeta.cli import main
from raymeta.tasks import loading

TEXT = """
import functools
from dataclasses import dataclass
from aside import WIDTH
from raymeta.tasks import Quadratic

@dataclass(frozen=True, kw_only=True)
class Mine(Quadratic):
    name: str = f"mine-{WIDTH}"

class Needy(Quadratic):
    def __init__(self, size):
        pass

made = Mine(horizon=7)

def make():
    return Mine(horizon=5)

number = 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file with tasks and one beside it, in a folder that nothing else knows."""
    monkeypatch.setattr(loading, "_files", {})
    monkeypatch.setattr(loading, "_beside", [])
    folder = tmp_path / "their"
    folder.mkdir()
    (folder / "aside.py").write_text("WIDTH = 8\n")
    (folder / "my_file.py").write_text(TEXT)
    yield folder / "my_file.py"
    sys.modules.pop("aside", None)


@pytest.mark.parametrize(("name", "horizon"), [("Mine", 20), ("made", 7), ("make", 5)])
def test_a_class_an_object_and_a_function_are_tasks(file, name, horizon):
    task = tasks.get(f"{file}:{name}")
    assert (task.name, task.horizon) == ("mine-8", horizon)
    assert tasks.get(f"{file}:{name}").__class__ is task.__class__  # run once
    assert str(file.parent) not in sys.path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Mein", "my_file.py: 'Mein': did you mean 'Mine'? available: Mine, Needy, ma"),
        ("number", "number is no task: a task needs name, space, .* but 3 has no name"),
        ("Needy", "without arguments, but it raises TypeError: .*'size'"),
    ],
)
def test_what_is_no_task_is_named(file, name, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")) as error:
        tasks.get(f"{file}:{name}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\n\nb = a / 0\n", "line 3 raises ZeroDivisionError: division by zero"),
        ("import json\njson.loads('x')\n", "line 2 raises JSONDecodeError"),
        ("a = 1\nb = (\n", "line 2 raises SyntaxError: '\\(' was never closed"),
        ("import sys\nsys.exit()\n", "line 2 raises SystemExit"),
        ("import nowhere_at_all\n", "line 1 raises ModuleNotFoundError: No module"),
    ],
)
def test_a_file_that_raises_is_named_with_the_line(file, text, message):
    (file.parent / "bad.py").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        tasks.get(f"{file.parent / 'bad.py'}:Mine")
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--task", "mine.py:Mine"]) == 2
    assert capsys.readouterr().err == (
        "raymeta: error: a task in a file is given as path.py:Name, but there is no "
        "file mine.py\n"
    )


def test_a_task_in_a_file_travels_to_where_the_file_is_not(file, tmp_path):
    task = tasks.get(f"{file}:Mine")
    for module in loading.modules():
        cloudpickle.register_pickle_by_value(module)
    try:
        sent = tmp_path / "sent"
        sent.write_bytes(cloudpickle.dumps(task))
    finally:
        for module in loading.modules():
            cloudpickle.unregister_pickle_by_value(module)
    code = (
        "import pickle, sys; task = pickle.load(open(sys.argv[1], 'rb')); "
        "print(task.name, float(task.sample(0).outer_cost))"
    )
    run = [sys.executable, "-c", code, str(sent)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == "mine-8 1.0\n"


def test_optimize_takes_a_file(file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert main(["optimize", "--task", "my_file.py:Mine", "--storage", "r"]) == 0
    assert "mine-8 by Auto" in capsys.readouterr().out


@pytest.fixture
def installed(file, monkeypatch):
    """A package with two tasks, one of which cannot be imported."""
    monkeypatch.syspath_prepend(file.parent)
    points = [
        EntryPoint("theirs", "my_file:Mine", loading.TASK.group),
        EntryPoint("torn", "nowhere_at_all:Task", loading.TASK.group),
    ]
    monkeypatch.setattr(loading.metadata, "entry_points", lambda group: points)
    yield
    sys.modules.pop("my_file", None)


def test_an_installed_task_is_found_by_name(installed):
    assert tasks.get("theirs").name == "mine-8"
    with pytest.raises(ValueError, match="did you mean 'theirs'"):
        tasks.get("their")
    with pytest.raises(ValueError, match="'torn' must be importable, but nowhere_at"):
        tasks.get("torn")


def test_list_shows_installed_tasks_and_what_is_wrong_with_them(installed, capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("  theirs ") and "20 steps" in line for line in lines)
    assert any("torn" in line and "ModuleNotFoundError" in line for line in lines)
