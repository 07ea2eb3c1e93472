"""Session folders of embedded Rays: for this user's eyes, and gone when a run ends.

Logs of Ray's processes may hold their environment, and with it secrets; Ray itself lets
everybody on the machine read them.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

PREFIX = "raymeta-ray-"
LOCK = ".lock"
#: Names of Ray's sockets in it may have 107 bytes, and take 86 of them.
BASE_BYTES = 21


@contextmanager
def session_folder() -> Iterator[Path]:
    """A folder of mode 0700 for one session of Ray.

    It goes at the end, and with it those that killed drivers of this user have left.
    """
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).resolve()
    if len(os.fsencode(base)) > BASE_BYTES:
        base = Path("/tmp")  # noqa: S108  # mkdtemp below is private
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    owner = folder.stat().st_uid
    try:
        with FileLock(folder / LOCK, is_singleton=False, thread_local=False):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for other in base.glob(f"{PREFIX}*"):
            _remove_left(other, owner)


def _remove_left(folder: Path, owner: int) -> None:
    """Remove a folder of this user whose driver is gone: nobody holds its lock."""
    lock = folder / LOCK
    with suppress(OSError):
        if folder.is_symlink() or folder.stat().st_uid != owner or not lock.exists():
            return
        with FileLock(lock, is_singleton=False).acquire(blocking=False):
            shutil.rmtree(folder, ignore_errors=True)
