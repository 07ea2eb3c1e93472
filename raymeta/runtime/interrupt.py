"""Ctrl-C and `ray job stop`, as a request to end well."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupt:
    """Ctrl-C or `ray job stop` as a request: the first asks, the second stops at once.

    Attributes:
        requested: whether a signal to end came inside the context.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "Interrupt":
        # Only the main thread may handle signals; elsewhere they are not ours.
        self._previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._previous = {n: signal.signal(n, self._request) for n in self.SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        for each in self.SIGNALS:
            signal.signal(each, signal.default_int_handler)


def interrupted(found: str, remedy: str) -> KeyboardInterrupt:
    """Ctrl-C that ended a run which is kept: one line says how to go on.

    IPython and Jupyter show this line alone. No class of its own: a script ends by the
    signal, as shells expect of Ctrl-C, for KeyboardInterrupt itself only.

    Args:
        found: where what was found is, kept as `found`; "" where nothing was.
        remedy: how to go on.
    """
    said = KeyboardInterrupt("; ".join(filter(None, (found, remedy))))
    shown = [f"KeyboardInterrupt: {said}"]
    vars(said).update(found=found, _render_traceback_=lambda: shown)
    return said


@contextmanager
def goes_on(name: str) -> Iterator[None]:
    """A run that Ctrl-C ends with the call that goes on from there."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        found = ": ".join(map(str, interrupt.args))
        raise interrupted(found, f"the same call with name={name!r} goes on") from None


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C: an interrupted shutdown would leave Ray's processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
