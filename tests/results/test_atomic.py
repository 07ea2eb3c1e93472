"""A file is the old one or the new one, whatever ends who writes it."""

import os
import subprocess
import sys

import pytest

from raymeta.results.atomic import atomic_write


@pytest.mark.parametrize("sync", [False, True])
def test_the_new_file_takes_the_old_ones_place(tmp_path, sync):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as before:
        with atomic_write(path, sync=sync) as file:
            file.write(b"new")
            assert path.read_bytes() == b"old"
        assert before.read() == b"old"  # who had opened it reads on
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def fail(done, error):
    raise error


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as file:
        fail(file.write(b"half"), error)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    program = (
        "import os, pathlib, sys\n"
        "from raymeta.results.atomic import atomic_write\n"
        "with atomic_write(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'), file.flush(), os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_two_writers_do_not_mix(tmp_path):
    path = tmp_path / "file"
    with atomic_write(path) as one, atomic_write(path) as other:
        one.write(b"one")
        other.write(b"the other")
    assert path.read_bytes() == b"one"  # which ended last
    assert os.listdir(tmp_path) == ["file"]
