"""Progress lines and bars, and their live display."""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Self

WIDTH = 100
REDRAW_S, LOG_S = 1.0, 10.0


def clock(seconds: float) -> str:
    """A duration as m:ss or h:mm:ss."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def count(number: int, noun: str) -> str:
    """A number with its noun, in the plural where it must be."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun[:-1]}ies" if noun[-1] == "y" else f"{number} {noun}s"


def wrap(
    head: str, parts: Iterable[str], separator: str = ", ", width: int = WIDTH
) -> list[str]:
    """The parts after a head, on as many lines as they need."""
    lines, indent = [head], "  "
    for place, part in enumerate(parts):
        joint = separator if place else " "
        if len(lines[-1]) + len(joint) + len(part) > width:
            lines.append(indent + part)
        else:
            lines[-1] += joint + part
    return [line[:width].rstrip() for line in lines]


class Progress:
    """Shows lines: to a terminal in place, otherwise one after the other.

    Args:
        show: true for standard output, False for nothing, or what takes a line.
    """

    def __init__(self, show: bool | Callable[[str], None]) -> None:
        self._write = _print if show is True else show or _ignore
        self._in_place = show is True and sys.stdout.isatty()
        self._every = REDRAW_S if self._in_place else LOG_S
        self._start = self._last = time.monotonic()
        self._drawn = 0

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._start

    def print(self, lines: Iterable[str]) -> None:
        """Lines that stay."""
        self._erase()
        for line in lines:
            self._write(line)

    def update(self, lines_of: Callable[[int], list[str]]) -> None:
        """Show where things stand, if the last time is long ago.

        Args:
            lines_of: a width in characters -> the lines to show.
        """
        if time.monotonic() - self._last < self._every:
            return
        self._last = time.monotonic()
        width = WIDTH
        if self._in_place:
            width = min(WIDTH, shutil.get_terminal_size().columns - 1)
        lines = lines_of(width)
        self.print(lines)
        self._drawn = len(lines)

    def _erase(self) -> None:
        if self._in_place and self._drawn:
            print(f"\x1b[{self._drawn}F\x1b[J", end="")
        self._drawn = 0


class Bar:
    """Progress through a budget: a bar in terminals and notebooks, lines elsewhere.

    It ticks by itself, so that time goes on while the first estimate is compiled.

    Args:
        total: the budget.
        waiting: what is being done until the first update.
    """

    def __init__(self, total: float, waiting: str) -> None:
        self._total, self._text = total, waiting
        self._done, self._over = 0.0, threading.Event()
        self._bar = _bar(total, waiting)
        self._lines = Progress(True)
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.close()

    def update(self, done: float, text: str) -> None:
        """How much of the budget is done, and what there is to say."""
        self._text = text
        if self._bar is None:
            self._done = done
            self._lines.update(self._line)
            return
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._done)
        self._done = done

    def _line(self, width: int) -> list[str]:
        share = self._done / self._total
        text = f"{clock(self._lines.elapsed)} {share:4.0%} of the budget, {self._text}"
        return [text[:width]]

    def _tick(self) -> None:
        while not self._over.wait(REDRAW_S):
            if self._bar is None:
                self._lines.update(self._line)
            else:
                self._bar.refresh()


def _bar(total: float, waiting: str) -> Any:
    """A bar of tqdm, where it can be drawn in place; else None."""
    notebook = _in_notebook()
    if not (notebook or sys.stdout.isatty()):
        return None
    from tqdm import tqdm

    form = "{percentage:3.0f}% of the budget |{bar:20}| {elapsed}<{remaining}{postfix}"
    options: dict[str, Any] = {"total": total, "bar_format": form, "leave": True}
    options["postfix"] = waiting
    if notebook:
        from tqdm.notebook import tqdm as in_notebook

        try:
            return in_notebook(**options)
        except ImportError:  # without ipywidgets
            pass
    return tqdm(**options, file=sys.stdout, dynamic_ncols=True, mininterval=0.2)


def _in_notebook() -> bool:
    """Whether the front end of a Jupyter kernel shows what is printed."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _print(line: str) -> None:
    print(line, flush=True)


def _ignore(line: str) -> None:
    pass
