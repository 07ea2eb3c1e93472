"""Records come back exactly, and half a line is none."""

import json
from contextlib import closing

from raymeta.results.jsonlines import JsonLines


def test_records_come_back_exactly(tmp_path):
    records = [{"x": [0.1 + 0.2, float("inf"), None, "é\n"]}, [], "word"]
    with closing(JsonLines(tmp_path / "j")) as lines:
        assert lines.read() == []
        for record in records:
            lines.append(record)
    with closing(JsonLines(tmp_path / "j")) as lines:
        assert lines.read() == records
        lines.append(1)
        assert lines.read() == [*records, 1]


def test_half_a_line_of_a_crash_is_dropped(tmp_path):
    path = tmp_path / "j"
    path.write_text(json.dumps({"event": 1}) + '\n{"eve')
    with closing(JsonLines(path)) as lines:
        assert lines.read() == [{"event": 1}]
        lines.append({"event": 2})
        assert lines.read() == [{"event": 1}, {"event": 2}]


def test_it_is_read_while_it_is_written(tmp_path):
    reader = JsonLines(tmp_path / "j")
    assert reader.read_new() == []
    with closing(JsonLines(tmp_path / "j")) as writer:
        writer.append("a")
        writer.append(float("inf"))
        assert reader.read_new() == ["a", float("inf")]
        assert reader.read_new() == []
    with (tmp_path / "j").open("ab") as file:
        file.write(b'{"event": "c"')
        file.flush()
        assert reader.read_new() == []
        file.write(b"}\n")
    assert reader.read_new() == [{"event": "c"}]
