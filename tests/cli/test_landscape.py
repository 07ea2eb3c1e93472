"""Surfaces of a finished comparison, of tasks by name, by file and as objects."""

import json

import pandas as pd
import pytest

from raymeta import optimize
from raymeta.analysis import write_report
from raymeta.analysis.report.page import REPORT
from raymeta.cli import main
from raymeta.cli.landscape import CURVES, SURFACE, tasks_of, write_landscape
from raymeta.hypergrad import Forward
from raymeta.results.run_folder import RunFolder, write_json
from raymeta.tasks import Quadratic, get, loading

TEXT = """
from raymeta.tasks import Quadratic

def make():
    return Quadratic(name="theirs", horizon=5)
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A user's file with a task."""
    for name, empty in (("_files", {}), ("_beside", []), ("_sources", {})):
        monkeypatch.setattr(loading, name, empty)
    path = tmp_path / "my_file.py"
    path.write_text(TEXT)
    return path


def learnt(folder, task):
    """The folder of an optimization of the task."""
    result = optimize(task, Forward(task.horizon), budget=300)
    with RunFolder.open(
        folder.parent,
        folder.name,
        "optimization",
        {"task": task.name, "estimator": "Forward(5)"},
        resume=False,
    ) as made:
        made.record_run(loading.sources([task.name]))
        made.write(result.frame)
    return folder


def test_a_task_is_found_in_the_file_that_was_recorded(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = learnt(tmp_path / "results", get("my_file.py:make"))
    monkeypatch.chdir("/")  # the record says where the file is
    said = []
    written = write_landscape(
        folder,
        ["lr", "momentum"],
        points=2,
        progress=lambda *at: said.append(at),
        trust=True,
    )
    assert written == [folder / SURFACE, folder / CURVES]
    rows = pd.read_parquet(folder / SURFACE)
    assert set(rows["task"]) == {"theirs"}
    assert rows["inner_steps"].max() == 5
    assert rows.groupby(["hp/lr", "hp/momentum"]).ngroups == 4
    total = 4 + pd.read_parquet(folder / CURVES)["outer_step"].nunique()
    assert said == [("theirs", done, total) for done in range(total + 1)]


def test_a_recorded_file_that_is_gone_is_named(file, tmp_path):
    folder = learnt(tmp_path / "results", get(f"{file}:make"))
    file.unlink()
    loading._files.clear()
    with pytest.raises(ValueError, match=r"there is no file .*my_file\.py"):
        write_landscape(folder, ["lr", "momentum"], trust=True)


@pytest.mark.parametrize("name", ["theirs", "quadratic"])
def test_a_file_that_the_folder_names_is_not_run_on_its_word(name, tmp_path, capsys):
    folder = learnt(tmp_path / "results", Quadratic(name=name, horizon=5))
    ran = tmp_path / "ran"
    hostile = tmp_path / "hostile.py"
    hostile.write_text(f"open({str(ran)!r}, 'w')\n")
    record = json.loads((folder / "optimization.json").read_text())
    record["runs"][-1]["task_files"] = {name: f"{hostile}:make"}
    write_json(record, folder / "optimization.json")
    assert main(["report", str(folder), "--surface", "lr", "momentum"]) == 2
    message = capsys.readouterr().err
    assert f"task {name!r} is in a file, '{hostile}:make'" in message
    assert "--task path.py:Name, or give --trust" in message
    assert not ran.exists()


def test_a_task_object_is_given_and_rows_of_others_stay(tmp_path):
    mine = Quadratic(name="mine", horizon=5)
    folder = learnt(tmp_path / "results", mine)
    frame = pd.read_parquet(folder / "frame.parquet")
    assert tasks_of(frame, folder) == []
    with pytest.raises(ValueError, match=r"both lr and momentum, but .* or give the t"):
        write_landscape(folder, ["lr", "momentum"])
    with pytest.raises(ValueError, match="has no 'quadratic': give one of mine"):
        write_landscape(folder, ["lr", "momentum"], [Quadratic()])
    other = pd.DataFrame({"task": ["other", "mine"], "seed": [0, 77]})
    other.to_parquet(folder / SURFACE)
    write_landscape(folder, ["lr", "momentum"], [mine], points=2)
    rows = pd.read_parquet(folder / SURFACE)
    assert set(rows["task"]) == {"other", "mine"}
    assert 77 not in set(rows["seed"])  # of this task, from before


def test_what_was_reported_of_another_optimization_is_removed(tmp_path):
    task = Quadratic(name="mine", horizon=5)
    folder = learnt(tmp_path / "results", task)
    (folder / "notes.txt").write_text("mine")
    write_landscape(folder, ["lr", "momentum"], [task], points=2)
    before = {file.name for file in write_report(folder)}
    assert {"surface_mine.png", "curve_row_mine.svg", "learning_mine.gif"} <= before
    learnt(folder, task)
    assert not any((folder / name).exists() for name in (SURFACE, CURVES, REPORT))
    after = {file.name for file in write_report(folder)}
    assert before - after == {
        *(
            f"{stem}_mine.{kind}"
            for stem in ("surface", "curve_row", "learning")
            for kind in ("png", "svg")
        ),
        "learning_mine.gif",
    }
    page = (folder / REPORT).read_text()
    assert "Loss surface" not in page
    assert (folder / "notes.txt").exists()
