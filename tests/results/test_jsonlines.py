"""Records come back exactly, and what is none is never lost."""

from contextlib import closing

import pytest

from raymeta.results.integrity import DamagedFile
from raymeta.results.jsonlines import HEADER, JsonLines, line_of

RECORDS = [{"x": [0.1 + 0.2, float("inf"), None, "é\n"]}, {}, {"event": "word"}]


def written(path, records=RECORDS):
    with closing(JsonLines(path)) as lines:
        for record in records:
            lines.append(record)
    return path.read_bytes()


def test_records_come_back_exactly(tmp_path):
    assert JsonLines(tmp_path / "j").read() == []
    written(tmp_path / "j")
    with closing(JsonLines(tmp_path / "j")) as lines:
        assert lines.read() == RECORDS
        lines.append({"n": 1})
        assert lines.read() == [*RECORDS, {"n": 1}]
        assert not lines.damage
    assert [path.name for path in tmp_path.iterdir()] == ["j"]


def test_half_a_line_of_a_crash_is_kept_beside(tmp_path):
    path = tmp_path / "j"
    for count in (1, 2):
        before = written(path)
        path.write_bytes(before + b'{"eve')
        with closing(JsonLines(path)) as lines:
            assert lines.read() == RECORDS * count
            assert path.read_bytes() == before + b'{"eve'  # reading changes nothing
            lines.append({})
        assert path.read_bytes() == before + line_of({})
        path.write_bytes(before)
    torn = sorted(tmp_path.glob("j.torn*"))
    assert [path.read_bytes() for path in torn] == [b'{"eve'] * 2


def test_a_bit_that_flipped_anywhere_is_noticed(tmp_path):
    path = tmp_path / "j"
    content = written(path)
    for at in range(0, 8 * len(content), 7):  # each byte
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(flipped)
        lines = JsonLines(path)
        if at // 8 < content.index(b"\n") + 1:
            with pytest.raises(DamagedFile, match="j cannot be used, for"):
                lines.begin()
            assert path.read_bytes() == flipped
            continue
        found = lines.read()
        assert found == RECORDS[: len(found)]
        torn = not flipped.endswith(b"\n")  # as a crash may leave it
        assert torn or f"j, line {len(found) + 2}, is not as" in lines.damage
        with closing(lines):
            lines.append({})
        kept = (tmp_path / "j.torn").read_bytes()
        assert content[: len(content) - len(kept)] + kept == flipped
        (tmp_path / "j.torn").unlink()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"no newline in it", "line 1 is not one of raymeta"),
        (b"\x00\xff\n", "line 1 is not one of raymeta"),
        (b"[]\n", "line 1 is not one of raymeta"),
        (b"[" * 100_000 + b"\n", "line 1 is not one of raymeta"),
        (b'{"a": 1}\n', "line 1 is not one of raymeta"),
        (line_of({**HEADER, "version": 9}), r"newer raymeta \(format 9, here 2\)"),
    ],
    ids=["no line", "bytes", "a list", "a tower", "another's", "newer"],
)
def test_what_is_not_ours_is_told_and_stays(tmp_path, content, why):
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=f"j cannot be used, for .*{why}"):
        JsonLines(path).append({})
    assert path.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["j"]


def test_a_first_line_that_a_crash_cut_short_is_begun_again(tmp_path):
    path = tmp_path / "j"
    path.write_bytes(line_of(HEADER)[:20])
    written(path)
    assert JsonLines(path).read() == RECORDS


def test_an_older_file_is_read_and_not_written(tmp_path):
    path = tmp_path / "j"
    for head in (b'{"event": "schema", "version": 1}\n', b""):
        path.write_bytes(head + b'{"event": "start"}\n')
        lines = JsonLines(path)
        assert lines.read() == [{"event": "start"}]
        with pytest.raises(ValueError, match="was begun by an older raymeta"):
            lines.begin()


def test_it_is_read_while_it_is_written(tmp_path):
    reader = JsonLines(tmp_path / "j")
    assert reader.read_new() == []
    with closing(JsonLines(tmp_path / "j")) as writer:
        writer.append({"a": 1})
        writer.append({"a": float("inf")})
        assert reader.read_new() == [{"a": 1}, {"a": float("inf")}]
        assert reader.read_new() == []
    line = line_of({"event": "c"})
    with (tmp_path / "j").open("ab") as file:
        file.write(line[:9])
        file.flush()
        assert reader.read_new() == []
        file.write(line[9:])
    assert reader.read_new() == [{"event": "c"}]
