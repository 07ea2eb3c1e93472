"""A line for people while something takes long."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: What takes less is not told.
SHORT_S = 5.0


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Tell on the error stream what takes long, and in the end how long it took.

    Args:
        what: in a few words.
    """
    begin = time.monotonic()

    def tell() -> None:
        print(f"{what} …", end="", file=sys.stderr, flush=True)

    timer = threading.Timer(SHORT_S, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if (taken := time.monotonic() - begin) > SHORT_S:
            print(f" {taken:.0f} s", file=sys.stderr, flush=True)
