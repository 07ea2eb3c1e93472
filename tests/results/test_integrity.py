"""What is read back is what was written, or says what is wrong."""

import json

import pandas as pd
import pytest

from raymeta.results.integrity import DamagedFile, read_json, read_parquet
from raymeta.results.run_folder import write_frame, write_json
from raymeta.results.schema import VERSION

FRAME = pd.DataFrame({"loss": [0.5, float("nan")], "task": ["a", "é"]})
RECORD = {"tasks": {"a": [1, None]}, "seeds": [0]}

FORMATS = {
    "frame.parquet": (lambda file: write_frame(FRAME, file), read_parquet),
    "x.json": (lambda file: write_json(RECORD, file), read_json),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_bit_that_flipped_anywhere_is_noticed(tmp_path, name):
    write, read = FORMATS[name]
    file = tmp_path / name
    write(file)
    content = file.read_bytes()
    for at in range(0, 8 * len(content), 7):  # each byte
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        file.write_bytes(flipped)
        with pytest.raises(DamagedFile, match=f"{name} cannot be used, for"):
            read(file)
    for length in range(0, len(content) - 1, 13):
        file.write_bytes(content[:length])
        with pytest.raises(DamagedFile, match=f"{name} cannot be used, for"):
            read(file)


def test_what_was_written_comes_back(tmp_path):
    write_frame(FRAME, tmp_path / "f")
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "f"), FRAME)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "f"), FRAME)  # by anyone
    write_json(RECORD, tmp_path / "r")
    assert read_json(tmp_path / "r") == {**RECORD, "schema": VERSION}
    assert read_json(tmp_path / "none") == {}
    # Of versions before there were checksums.
    FRAME.to_parquet(tmp_path / "f")
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "f"), FRAME)
    (tmp_path / "r").write_text(json.dumps(RECORD))
    assert read_json(tmp_path / "r") == RECORD


def test_newer_files_foreign_ones_and_folders_are_told_apart(tmp_path):
    for name, (write, read) in FORMATS.items():
        file = tmp_path / name
        write(file)
        newer = file.read_bytes().replace(b'"schema": 2', b'"schema": 9')
        file.write_bytes(newer)
        with pytest.raises(DamagedFile, match=r"checksum|newer raymeta \(format 9"):
            read(file)
        for content in (
            b"PK\x03\x04",
            b"\xff\xfe",
            b"[1]",
            b"[" * 99_999,
            b"9" * 9_999,
        ):
            file.write_bytes(content)
            with pytest.raises(DamagedFile, match=r"it is no|not JSON|line 1 is not"):
                read(file)
        file.unlink()
        file.mkdir()
        with pytest.raises(DamagedFile, match=r"fails \(Is a directory\): restore"):
            read(file)
    (tmp_path / "y.json").write_text('{"tasks": 3}')
    with pytest.raises(DamagedFile, match="no file of raymeta: it lacks 'tasks'"):
        read_json(tmp_path / "y.json", needs={"tasks": dict})
