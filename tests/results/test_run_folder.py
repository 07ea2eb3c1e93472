"""One process at a time is at a run, and goes on with the settings it began with."""

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from raymeta.results.run_folder import RunFolder, run_address, run_name, write_json

KINDS = ["comparison", "optimization", "training", "diagnosis"]


@pytest.fixture(params=KINDS)
def opened(request, tmp_path):
    """Open the folder `x` of a run of each kind."""

    def open_(settings, **options):
        return RunFolder.open(tmp_path, "x", request.param, settings, **options)

    open_.kind = request.param
    return open_


def test_what_was_noted_is_there_when_it_is_resumed(opened, tmp_path):
    with opened({"seeds": (0, 1)}) as folder:
        folder.record_run({"mine": "file.py:Mine"})
        folder.note(finished={"steps": 3})
    with opened({"seeds": [0, 1]}) as folder:
        assert folder.noted("finished") == {"steps": 3}
        assert folder.noted("other") is None
        folder.record_run()
    record = json.loads((tmp_path / "x" / f"{opened.kind}.json").read_text())
    assert record["seeds"] == [0, 1]
    assert [run["task_files"] for run in record["runs"]] == [
        {"mine": "file.py:Mine"},
        {},
    ]


def test_other_settings_are_refused_where_it_is_resumed(opened):
    with opened({"seeds": [0, 1], "budget": 1}):
        pass
    with (
        pytest.raises(ValueError, match=r"other budget \(1 then, 2 now\): give the"),
        opened({"seeds": [0, 1], "budget": 2}),
    ):
        pass


def test_a_run_that_is_not_resumed_replaces_the_one_before(opened, tmp_path):
    with opened({"budget": 1}) as folder:
        folder.note(finished=True)
        write_json({}, folder.path / "schedule.json")
        (folder.path / "report.html").touch()
        (folder.path / "surface_a.png").touch()
    with opened({"budget": 2}, resume=False) as folder:
        assert folder.noted("finished") is None
        assert folder.noted("budget") == 2
    names = {path.name for path in (tmp_path / "x").iterdir()}
    assert names == {".lock", "schedule.json", f"{opened.kind}.json"}


def test_another_process_is_refused_until_it_is_left(opened, tmp_path):
    program = (
        "from raymeta.results.run_folder import RunFolder\n"
        f"with RunFolder.open({str(tmp_path)!r}, 'x', {opened.kind!r}, {{}}):\n"
        "    print('open')\n"
    )
    with opened({}) as folder:
        folder.note(before=1)
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True
        )
        assert f"one process at a time runs a{'n' * (opened.kind[0] == 'o')} " in (
            done.stderr
        )
    assert done.stdout == ""
    with opened({}) as folder:
        assert folder.noted("before") == 1


def test_a_folder_of_something_else_is_left_alone(opened, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds something else"), opened({}):
        pass
    assert os.listdir(tmp_path / "x") == ["thesis.tex"]


def test_what_a_killed_process_began_is_no_hindrance(opened, tmp_path):
    (tmp_path / "x").mkdir()
    for name in (".lock", f"{opened.kind}.json.12ab.tmp"):
        (tmp_path / "x" / name).touch()
    with opened({"a": 1}) as folder:
        assert folder.noted("a") == 1


def stop_after(done):
    raise KeyboardInterrupt


def test_ctrl_c_says_where_the_frame_is(opened):
    with pytest.raises(KeyboardInterrupt, match=r"^$"), opened({}):
        stop_after(None)
    with pytest.raises(KeyboardInterrupt) as interrupt, opened({}) as folder:
        stop_after(folder.write(pd.DataFrame({"x": [1.0]})))
    assert str(interrupt.value) == f"what was found is in {folder.frame}"
    pd.testing.assert_frame_equal(folder.read(), pd.DataFrame({"x": [1.0]}))
    with pytest.raises(KeyboardInterrupt, match="what was found"), opened({}):
        stop_after(None)
    # The frame is that of a run before.
    with pytest.raises(KeyboardInterrupt, match=r"^$"), opened({}, resume=False):
        stop_after(None)


def test_names_are_those_of_folders(tmp_path):
    assert run_name(tmp_path, "a-b.1", []) == "a-b.1"
    with pytest.raises(ValueError, match=r"a name must consist of letters, .*'a/b'"):
        run_name(tmp_path, "a/b", [])
    assert run_address("s3://bucket/all/", "x") == "s3://bucket/all/x"
    assert run_address(tmp_path, "x") == str(tmp_path / "x")


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_a_folder_that_was_removed_is_noticed(opened, tmp_path, replaced):
    with opened({}) as folder:
        folder.require_there()
        shutil.rmtree(folder.path)
        if replaced:
            folder.path.mkdir()
            (folder.path / ".lock").touch()
        for write in (folder.require_there, lambda: folder.note(a=1)):
            with pytest.raises(ValueError, match="removed or replaced while a run"):
                write()
        with pytest.raises(ValueError, match="removed or replaced while a run"):
            folder.write(pd.DataFrame({"a": [1]}))


def test_who_loses_a_new_name_is_told_that_another_has_it(tmp_path):
    """Twelve threads begin at once; a lock is of an open file, not of a process."""
    start, ended = threading.Barrier(12), threading.Barrier(12)

    def begin(_):
        start.wait()
        try:
            with RunFolder.open(tmp_path, "x", "training", {}) as folder:
                (folder.path / "parts").mkdir()
                ended.wait()
        except ValueError as error:
            ended.wait()
            return str(error)
        return ""

    with ThreadPoolExecutor(12) as pool:
        said = list(pool.map(begin, range(12)))
    assert said.count("") == 1
    told = "one process at a time runs a training, but another one is writing"
    assert all(each.startswith(told) for each in said if each), said
