"""A comparison that goes on, or grows, under its name; trials run in this process."""

import json
import re
import textwrap
from importlib import import_module

import pandas as pd
import pytest
from search_toys import Bowl, Listed

from raymeta.analysis import read
from raymeta.cli import main
from raymeta.results.run_folder import RunFolder, write_json
from raymeta.search import compare, resume
from raymeta.search.frame import to_frame
from raymeta.space import Positive, Space
from raymeta.testing.in_process import run_trial

NEVER = 10**6


@pytest.fixture(autouse=True)
def played(monkeypatch):
    """Trials run here; `played[0]` of them, and how many have."""
    most = [NEVER, 0]

    def run(plan, coordinator, whole, states, display, slots, options):
        whole.folder.record_run()
        while most[0] > 0 and (trial := coordinator.request_trial()):
            most[0] -= 1
            most[1] += 1
            run_trial(coordinator, trial, states)
        whole.write(to_frame(coordinator.studies.values()))
        return coordinator.finished

    module = import_module("raymeta.search.compare")
    monkeypatch.setattr(module, "_run", run)
    return most


@pytest.fixture
def grow(tmp_path):
    """Compare under one name: grow(tasks, methods, budget, seeds) -> the frame."""
    lines = []

    def call(tasks, methods, budget=30, seeds=1, name="x", **more):
        settings = {"budget": budget, "seeds": seeds, "name": name, **more}
        return compare(
            tasks, methods, storage=tmp_path, progress=lines.append, **settings
        ).drop(columns="wall_s")

    call.lines = lines
    call.folder = tmp_path / "x"
    return call


def sorted_rows(frame):
    keys = ["task", "seed", "method"]
    rows = frame.sort_values(keys, kind="stable").reset_index(drop=True)
    return rows[sorted(rows)]


def test_more_of_everything_is_what_a_fresh_one_gives(grow, played):
    other = Bowl(name="other", horizon=5)
    whole = grow([Bowl(), other], ["random", "tpe", "long_term"], 60, 3, name="fresh")
    ran = played[1]

    grow(Bowl(), "random")
    grow(Bowl(), ["random", "long_term"])
    grow(Bowl(), ["random", "long_term"], seeds=3)
    grow(Bowl(), ["random", "long_term"], 60, 3)
    played[1] = 0
    grown = grow([Bowl(), other], ["random", "tpe", "long_term"], 60, 3)

    pd.testing.assert_frame_equal(sorted_rows(grown), sorted_rows(whole))
    assert list(grown) == list(whole)
    assert 0 < played[1] < ran
    again = grow([Bowl(), other], ["random", "tpe", "long_term"], 60, 3)
    pd.testing.assert_frame_equal(again, grown)
    assert "finished before" in grow.lines[-1]
    for name in ("evidence.json", "spending.json"):
        mine, theirs = (
            json.loads((grow.folder.parent / folder / name).read_text())
            for folder in ("x", "fresh")
        )
        if name == "evidence.json":
            assert mine == theirs
        else:
            by_cell = [
                {(c["task"], c["method"], c["seed"]): c for c in all_["cells"]}
                for all_ in (mine, theirs)
            ]
            assert by_cell[0] == by_cell[1]
    record = json.loads((grow.folder / "comparison.json").read_text())
    assert record["seeds"] == [0, 1, 2]
    assert list(record["methods"]) == ["random", "long_term", "tpe"]
    assert record["budgets"] == {"bowl": 60.0, "other": 60.0}


def test_fewer_show_fewer_and_nothing_is_lost(grow, played):
    whole = grow([Bowl(), Bowl(name="b")], ["random", "long_term"], seeds=2)
    on_disk = pd.read_parquet(grow.folder / "frame.parquet")
    played[0] = 0  # nothing runs

    part = grow(Bowl(), "long_term", seeds=[1])
    mask = (whole.task == "bowl") & (whole.method == "long_term") & (whole.seed == 1)
    pd.testing.assert_frame_equal(part, whole[mask].reset_index(drop=True))
    again = grow([Bowl(), Bowl(name="b")], ["random", "long_term"], seeds=2)
    pd.testing.assert_frame_equal(again, whole)
    pd.testing.assert_frame_equal(
        pd.read_parquet(grow.folder / "frame.parquet"), on_disk
    )


def test_what_is_not_shown_stays_on_disk_while_others_come(grow):
    first = grow(Bowl(), "random", seeds=2)
    second = grow(Bowl(), "long_term", seeds=3)

    assert set(second.method) == {"long_term"}
    disk = pd.read_parquet(grow.folder / "frame.parquet").drop(columns="wall_s")
    pd.testing.assert_frame_equal(
        disk[disk.method == "random"].reset_index(drop=True), first
    )
    assert len(disk) == len(first) + len(second)
    evidence = json.loads((grow.folder / "evidence.json").read_text())
    assert set(evidence["bowl"]["0"]["methods"]) == {"random", "long_term"}
    spending = json.loads((grow.folder / "spending.json").read_text())
    assert len(spending["cells"]) == 5


def test_one_that_was_stopped_grows(grow, played):
    fresh = grow(Bowl(), ["random", "tpe"], 60, 2, name="fresh")
    played[0] = 3
    assert len(grow(Bowl(), "tpe")) == 3
    played[0] = 5
    grow(Bowl(), ["random", "tpe"], 60, 2)
    played[0] = NEVER

    grown = grow(Bowl(), ["random", "tpe"], 60, 2)

    pd.testing.assert_frame_equal(grown, fresh)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"budget": 20}, r"budget of 30 on 'bowl' .* only grows, but got 20: give 30"),
        ({"budget": 50, "methods": "tpe"}, r"got none for bowl/random/0: name those"),
        ({"tasks": Bowl(horizon=5)}, r"other tasks \(bowl: horizon: 9 then, 5 now\)"),
        ({"tasks": Bowl(nan_above=1)}, r"other tasks \(bowl: settings: Bowl"),
        ({"at_once": 2, "seeds": 2}, r"other at_once \(1 then, 2 now\)"),
    ],
)
def test_what_is_not_the_same_is_refused(grow, change, match):
    grow(Bowl(), "random")
    before = {f.name: f.read_bytes() for f in grow.folder.iterdir() if f.is_file()}

    settings = {"tasks": Bowl(), "methods": "random", "seeds": 1} | change
    with pytest.raises(ValueError, match=match) as error:
        grow(**settings)

    assert "\n" not in str(error.value)
    assert before == {
        f.name: f.read_bytes() for f in grow.folder.iterdir() if f.is_file()
    }


def test_another_space_is_refused(grow):
    class Wider(Bowl):
        @property
        def space(self):
            return Space(lr=Positive(0.1, low=0.001, high=1.9))

    grow(Bowl(), "random")
    with pytest.raises(ValueError, match=r"other tasks .*space"):
        grow(Wider(), "random", seeds=2)


@pytest.mark.parametrize("package", ["ray", "torch", "raymeta"])
def test_another_version_is_refused_where_it_grows(grow, monkeypatch, package):
    grow(Bowl(), "random")
    record = json.loads((grow.folder / "comparison.json").read_text())
    here = record["runs"][0]["versions"][package]
    record["runs"][0]["versions"][package] = "1.2.3"
    write_json(record, grow.folder / "comparison.json")

    match = f"version of {package} was 1.2.3 and is {re.escape(here)} now: install"
    with pytest.raises(ValueError, match=match):
        grow(Bowl(), "random", seeds=2)
    grow(Bowl(), "random")  # nothing comes


def test_other_data_is_refused_where_it_grows(grow, monkeypatch):
    grow(Bowl(), "random")
    real = resume.fingerprint
    monkeypatch.setattr(
        resume, "fingerprint", lambda task, seed: real(task, seed)._replace(data="0")
    )
    match = "the data of task 'bowl', seed 0, are not what they were: restore them"
    with pytest.raises(ValueError, match=match):
        grow(Bowl(), ["random", "tpe"])
    grow(Bowl(name="other"), "random")  # of this one nothing is known


SCRIPT = """
from search_toys import Bowl as Base


class Mine(Base):
    shift = 0.0

    def target(self, seed):
        return 1.0 + seed + {shift}


class Plain:
    name, horizon, budget = "plain", 9, 100.0
    space = Base().space

    def sample(self, seed):
        return Base().sample(seed)
"""


def module_of(tmp_path, monkeypatch, name, shift=0.0):
    code = textwrap.dedent(SCRIPT).replace("{shift}", str(shift))
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    return import_module(name)


def test_a_class_that_moved_to_another_module_is_the_same_task(
    grow, tmp_path, monkeypatch
):
    script = module_of(tmp_path, monkeypatch, "grown_script")
    moved = module_of(tmp_path, monkeypatch, "grown_moved")
    other = module_of(tmp_path, monkeypatch, "grown_other", shift=1.0)
    grow([script.Mine(), script.Plain()], "random")
    grown = grow([moved.Mine(), moved.Plain()], "random", seeds=2)
    assert set(grown.seed) == {0, 1}
    with pytest.raises(ValueError, match=r"other code, for .*Mine.target changed"):
        grow([other.Mine(), other.Plain()], "random", seeds=3)
    with pytest.raises(ValueError, match=r"other code, for .*Mine.target changed"):
        grow(other.Mine(), "random", seeds=3)


def test_several_folders_are_reported_as_one(grow, capsys):
    grow(Bowl(), "random", 60, 2, name="a")
    grow(Bowl(), "long_term", 60, 2, name="b")
    whole = grow(Bowl(), ["random", "long_term"], 60, 2, name="c")
    home = grow.folder.parent

    assert not main(["report", str(home / "a"), str(home / "b")])

    both = read(home / "a+b").drop(columns="wall_s")
    pd.testing.assert_frame_equal(sorted_rows(both), sorted_rows(whole))
    said = capsys.readouterr().out
    assert "random" in said
    assert "long_term" in said
    assert (home / "a+b" / "report.html").is_file()
    grow(Bowl(horizon=5), "tpe", 60, 2, name="d")
    assert main(["report", str(home / "a"), str(home / "d")]) == 2
    assert "did not train on the same, for the horizon" in capsys.readouterr().err


def test_another_stop_is_said_once_something_has_run(grow, played):
    played[0] = 1
    grow(Bowl(), "random", stop={"training_iteration": 5})
    assert not any("stop=" in line for line in grow.lines[:-1])
    played[0] = NEVER
    grow(Bowl(), "random")
    said = (
        "begun with stop={'training_iteration': 5}, now stop=None: trials that it has"
    )
    assert any(line.startswith(said) for line in grow.lines)


def test_cells_of_records_from_before_comparisons_grew(tmp_path):
    old = {"tasks": {"a": 0}, "methods": {"m": 0}, "seeds": [0, 1], "finished": True}
    assert resume.cells_of(old) == {"a/m/0": True, "a/m/1": True}
    assert not any(resume.cells_of(old | {"finished": False}).values())


def test_methods_whose_settings_changed_are_refused(grow):
    grow(Bowl(), Listed((0.1, 0.2)))
    with pytest.raises(ValueError, match=r"other methods \(listed"):
        grow(Bowl(), Listed((0.1, 0.3)), seeds=2)


def test_the_folder_is_that_of_a_comparison(grow):
    with RunFolder.open(grow.folder.parent, "y", "diagnosis", {"task": "bowl"}):
        pass
    with pytest.raises(ValueError, match="holds something else"):
        grow(Bowl(), "random", name="y")
