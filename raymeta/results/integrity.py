"""Integrity of files that are read back: a checksum and a format version in each.

Each file of ours has `"crc32": "<eight digits>"` in a place that its format leaves for
such: in a JSON object or a line of one, among the metadata of a parquet file, in the
comment of a zip archive of tensors. The checksum is that of the whole file with zeros
for the digits, so a bit that flipped anywhere is noticed. It tells of accidents, not of
forgery: see SECURITY.md. Files without one are of versions before 2.
"""

import json
import re
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymeta.results.mirror import address
from raymeta.results.schema import KEY, VERSION

if TYPE_CHECKING:
    import pandas as pd

CHECKSUM, ZEROS = "crc32", b"00000000"
#: What is written in its place before the checksum is known.
EMPTY = b'"crc32": "' + ZEROS + b'"'
#: What a parquet file and a file of tensors carry, in JSON.
SEAL = f'{{"{KEY}": {VERSION}, '.encode() + EMPTY + b"}"

_SEAL = re.compile(rb'\{"%b": (\d+), "crc32": "' % KEY.encode())
_MARK = re.compile(rb'"crc32": "([0-9a-f]{8})"')

OTHER = "restore it from a copy, or use another name"
WRITTEN_AGAIN = "delete it, and the same command writes it again"


class DamagedFile(ValueError):
    """A file is not as it was written: names it, says why and what to do.

    Args:
        path: the file.
        reason: what is wrong with it.
        remedy: what to do.
    """

    def __init__(self, path: Path, reason: str, remedy: str = OTHER) -> None:
        super().__init__(f"{address(path)} cannot be used, for {reason}: {remedy}")
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return ValueError, self.args


def with_checksum(content: bytes) -> bytes:
    """The content with its checksum in the last place that is `EMPTY`."""
    before, empty, after = content.rpartition(EMPTY)
    assert empty
    return before + empty.replace(ZEROS, b"%08x" % zlib.crc32(content)) + after


def is_whole(content: bytes) -> bool | None:
    """Whether a checksum is that of the content; None where there is none."""
    *_, mark = [None, *_MARK.finditer(content)]
    if mark is None:
        return None
    view = memoryview(content)
    checksum = zlib.crc32(ZEROS, zlib.crc32(view[: mark.start(1)]))
    return zlib.crc32(view[mark.end(1) :], checksum) == int(mark[1], 16)


def newer(version: Any) -> str:
    """What is wrong with a file of a later version; "" with one of ours."""
    if isinstance(version, int) and version <= VERSION:
        return ""
    return f"it was made by a newer raymeta (format {version!r}, here {VERSION})"


def require_whole(path: Path, content: bytes, version: Any, remedy: str) -> None:
    """Raise DamagedFile unless content of this version is as it was written."""
    if reason := newer(version):
        raise DamagedFile(path, reason, "read it with that version")
    whole = is_whole(content)
    if whole is False or (whole is None and version >= 2):
        raise DamagedFile(path, "its checksum is not that of its content", remedy)


def read_bytes(path: Path, remedy: str = OTHER) -> bytes:
    """The content of a file.

    Raises:
        DamagedFile: it cannot be read, or is empty.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedFile(
            path, f"reading it fails ({error.strerror})", remedy
        ) from None
    if not content:
        raise DamagedFile(path, "it is empty", remedy)
    return content


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """A JSON object for people and programs, with version and checksum last."""
    rest = {name: each for name, each in value.items() if name != KEY}
    text = json.dumps({**rest, KEY: VERSION, CHECKSUM: ZEROS.decode()}, indent=2)
    return with_checksum(text.encode() + b"\n")


def read_json(
    path: Path,
    remedy: str = OTHER,
    needs: Mapping[str, type] | None = None,
) -> dict[str, Any]:
    """A JSON object without its checksum; empty where there is no file.

    Args:
        path: the file.
        remedy: what to do about a damaged one.
        needs: names that it must have, and the types of their values.

    Raises:
        DamagedFile: it is not as it was written, of a newer version, or not ours.
    """
    if not path.exists():
        return {}
    content = read_bytes(path, remedy)
    try:
        value = json.loads(content)
    except json.JSONDecodeError as error:
        reason = f"line {error.lineno} is not JSON"
        raise DamagedFile(path, reason, remedy) from None
    except (ValueError, RecursionError):  # no text, or what no file of ours has
        raise DamagedFile(path, "it is not JSON", remedy) from None
    if not isinstance(value, dict):
        raise DamagedFile(path, "it is no file of raymeta", remedy)
    require_whole(path, content, value.get(KEY, 0), remedy)
    for name, kind in (needs or {}).items():
        if not isinstance(value.get(name), kind):
            reason = f"it is no file of raymeta: it lacks {name!r}"
            raise DamagedFile(path, reason, remedy)
    value.pop(CHECKSUM, None)
    return value


def parquet_bytes(frame: "pd.DataFrame") -> bytes:
    """A parquet file, with checksums of its pages for other readers, too."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), b"raymeta": SEAL}
    file = BytesIO()
    pq.write_table(
        table.replace_schema_metadata(metadata), file, write_page_checksum=True
    )
    return with_checksum(file.getvalue())


def read_parquet(path: Path, remedy: str = OTHER) -> "pd.DataFrame":
    """A table that another process may replace meanwhile.

    By path, pandas opens it twice, and reads the one file with the footer of the other.

    Raises:
        DamagedFile: it is not as it was written, of a newer version, or no table.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    content = read_bytes(path, remedy)
    # As bytes: among the metadata, arrow's own copy of a table's would hide it.
    seals = _SEAL.findall(content)
    require_whole(path, content, int(seals[-1]) if seals else 0, remedy)
    try:
        if (
            b"raymeta" in (pq.read_schema(BytesIO(content)).metadata or {})
            and not seals
        ):
            raise ValueError("its version is altered")
        return pd.read_parquet(BytesIO(content), engine="pyarrow")
    except Exception as error:  # of many kinds, from a file of any kind
        reason = f"it is no parquet file that can be read ({_first_line(error)})"
        raise DamagedFile(path, reason, remedy) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
