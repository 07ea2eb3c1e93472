import pyarrow.fs as fs
import pytest

from raymeta.results import segments
from raymeta.results.segments import GrowingFile, file_of, join_segments


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100)
    (tmp_path / "there").mkdir()
    return fs.SubTreeFileSystem(str(tmp_path / "there"), fs.LocalFileSystem())


@pytest.fixture
def here(tmp_path):
    return tmp_path / "journal.jsonl"


def send(one, path):
    with path.open("rb") as file:
        one.send(file)


def append(path, data):
    with path.open("ab") as file:
        file.write(data)


def read(store, tmp_path):
    """What another process finds there."""
    copy = tmp_path / "copy.jsonl"
    copy.unlink(missing_ok=True)
    found = GrowingFile(store, "journal.jsonl").fetch(copy)
    return copy.read_bytes() if found else None


def objects(tmp_path):
    return {p.name: p.stat().st_size for p in (tmp_path / "there").iterdir()}


def test_it_is_there_as_it_is_here_whatever_is_appended(store, here, tmp_path):
    one, follower = (GrowingFile(store, "journal.jsonl") for _ in range(2))
    assert read(store, tmp_path) is None
    for size in (0, 1, 30, 20, 1, 250, 49, 50, 51, 99, 100, 101, 1000):
        append(here, b"x" * (size - 1) + b"\n" * bool(size))
        before = objects(tmp_path)
        send(one, here)
        assert read(store, tmp_path) == here.read_bytes()
        follower.fetch(tmp_path / "followed")
        assert (tmp_path / "followed").read_bytes() == here.read_bytes()
        after = objects(tmp_path)
        assert max(after.values()) <= 100
        changed = [name for name in before if before[name] != after[name]]
        assert len(changed) <= 1  # the open one
        assert all(before[name] < 50 for name in changed)


def test_nothing_new_sends_nothing(store, here):
    one = GrowingFile(store, "journal.jsonl")
    append(here, b"a\n")
    send(one, here)
    one._store = None
    send(one, here)


def test_half_a_line_stays_here(store, here, tmp_path):
    one = GrowingFile(store, "journal.jsonl")
    append(here, b"whole\nha")
    send(one, here)
    assert read(store, tmp_path) == b"whole\n"
    append(here, b"lf\n")
    send(one, here)
    assert read(store, tmp_path) == b"whole\nhalf\n"


def test_an_older_journal_in_one_piece_is_gone_on_with(store, here, tmp_path):
    """Even where a machine crashed in the middle of its last line."""
    (tmp_path / "there/journal.jsonl").write_bytes(b"line\n" * 90 + b"ha")
    one, follower = (GrowingFile(store, "journal.jsonl") for _ in range(2))
    assert one.fetch(here)
    follower.fetch(tmp_path / "followed")
    with here.open("r+b") as file:
        file.truncate(450)
    append(here, b"something longer\n")
    send(one, here)
    assert read(store, tmp_path) == here.read_bytes()
    follower.fetch(tmp_path / "followed")
    assert (tmp_path / "followed").read_bytes() == here.read_bytes()


def test_another_process_goes_on_where_one_ended(store, here, tmp_path):
    append(here, b"line\n" * 90)
    send(GrowingFile(store, "journal.jsonl"), here)
    later, copy = GrowingFile(store, "journal.jsonl"), tmp_path / "later.jsonl"
    later.fetch(copy)
    before = objects(tmp_path)
    append(copy, b"more\n")
    send(later, copy)
    assert read(store, tmp_path) == copy.read_bytes()
    assert before.items() - objects(tmp_path).items() == {
        (name, size) for name, size in before.items() if size < 50
    }


@pytest.mark.parametrize("begun", [b"", b"old\n" * 10, b"old\n" * 200])
def test_one_that_begins_anew_replaces_what_was_there(store, here, tmp_path, begun):
    one = GrowingFile(store, "journal.jsonl")
    append(here, begun)
    send(one, here)
    here.unlink()
    append(here, b"new\n" * 60)
    send(one, here)
    assert read(store, tmp_path) == here.read_bytes()
    here.write_bytes(b"shorter\n")
    send(GrowingFile(store, "journal.jsonl"), here)  # of a process that has not looked
    assert read(store, tmp_path) == b"shorter\n"
    assert list(objects(tmp_path)) == ["journal.jsonl"]


@pytest.mark.parametrize("begun", [40, 70, 430])
def test_whatever_ends_a_process_what_counts_there_is_whole(
    store, here, tmp_path, begun, monkeypatch
):
    """After each object that it sends."""
    one, seen = GrowingFile(store, "journal.jsonl"), []
    append(here, b"0123456789\n" * begun)
    send(one, here)
    before = here.read_bytes()
    write = one._object

    def killed(begin):
        seen.append(read(store, tmp_path))
        return write(begin)

    append(here, b"9876543210\n" * 50)
    monkeypatch.setattr(one, "_object", killed)
    send(one, here)
    assert len(seen) > 5
    assert set(seen) == {before}
    assert read(store, tmp_path) == here.read_bytes()


def test_a_folder_that_was_copied_as_it_is_is_put_together(store, here, tmp_path):
    append(here, b"line\n" * 90)
    send(GrowingFile(store, "journal.jsonl"), here)
    join_segments(tmp_path / "there")
    assert objects(tmp_path) == {"journal.jsonl": 450}
    assert (tmp_path / "there/journal.jsonl").read_bytes() == here.read_bytes()


def test_it_is_deleted_with_all_its_segments(store, here, tmp_path):
    append(here, b"line\n" * 90)
    one = GrowingFile(store, "journal.jsonl")
    send(one, here)
    one.delete()
    assert not objects(tmp_path)


def test_names():
    assert file_of("a/journal.jsonl.from-000001048576") == ("a/journal.jsonl", 1 << 20)
    assert file_of("parts/a.parquet") == ("parts/a.parquet", 0)
