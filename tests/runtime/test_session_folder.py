"""Where an embedded Ray keeps its logs, which may have secrets."""

import fcntl
import os
import stat
import tempfile

import pytest

from raymeta.runtime.session_folder import LOCK, PREFIX, session_folder


@pytest.fixture
def base(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as base:
        monkeypatch.setenv("RAY_TMPDIR", base)
        yield base


def test_it_is_for_this_user_alone_and_goes(base):
    with session_folder() as folder:
        assert str(folder.parent) == base
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "session" / "logs").mkdir(parents=True)
    assert not os.listdir(base)


def test_those_of_killed_drivers_go_with_it_and_others_stay(base):
    left, held, foreign, begun = (f"{base}/{PREFIX}{name}" for name in "abcd")
    for folder in (left, held, foreign, begun):
        os.mkdir(folder)
    for folder in (left, held):
        with open(f"{folder}/{LOCK}", "wb"):
            pass
    os.rename(foreign, f"{base}/session_of_another")
    os.symlink(held, f"{base}/{PREFIX}link")
    with open(f"{held}/{LOCK}", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with session_folder():
            pass
    there = sorted(name.removeprefix(PREFIX) for name in os.listdir(base))
    assert there == ["b", "d", "link", "session_of_another"]


def test_a_long_path_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with session_folder() as folder:
        assert str(folder.parent) == "/tmp"
