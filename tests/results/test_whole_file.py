"""Files on an object store that are replaced while they are read."""

import io

import pyarrow.fs as fs
import pytest

from raymeta.results.whole_file import WholeFile

OLD, NEW = b"old", b"new, and longer"


class Stream(io.BytesIO):
    """As many bytes as there were at its opening, of what is there at its reading."""

    def __init__(self, store):
        super().__init__()
        self._store, self._left = store, len(store.content)
        self._etag = store.content

    def metadata(self):
        return {"ETag": self._etag}

    def read(self, size=-1):
        self._store.on_read()
        part, self._left = self._store.content[: self._left], 0
        return part


class Store:
    """Has one object, which is replaced at the first reading."""

    def __init__(self, replacement):
        self.content, self._replacement = OLD, replacement

    def on_read(self):
        self.content = self._replacement

    def get_file_info(self, place):
        return fs.FileInfo(place, fs.FileType.File, size=len(self.content), mtime_ns=1)

    def open_input_stream(self, place):
        if self.content is None:
            raise FileNotFoundError
        return Stream(self)


@pytest.mark.parametrize("replacement", [NEW, OLD], ids=["another", "the same"])
def test_what_is_read_is_of_one_version(replacement, tmp_path):
    file = tmp_path / "file"
    assert WholeFile(Store(replacement), "file").fetch(file)
    assert file.read_bytes() == replacement
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_deleted_meanwhile_is_not_there(tmp_path):
    store = Store(NEW)
    info = {0: store.get_file_info("file")}
    store.content = None
    assert not WholeFile(store, "file").fetch(tmp_path / "file", info)
    assert list(tmp_path.iterdir()) == []
