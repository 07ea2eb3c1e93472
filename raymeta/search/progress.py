"""Live progress for people: from standings to lines, and their display."""

import math
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from raymeta.search.ledger import Standing
from raymeta.search.plan import Plan

WIDTH = 100
REDRAW_S, LOG_S = 1.0, 10.0


def opening(plan: Plan, folder: str) -> list[str]:
    """What will run, and where the results go."""
    seeds = ", ".join(map(str, plan.seeds))
    sizes = [
        _count(len(plan.methods), "method"),
        _count(len(plan.tasks), "task"),
        _count(len(plan.seeds), "seed"),
    ]
    cells = len(plan.methods) * len(plan.tasks) * len(plan.seeds)
    budgets = [f"{name} {budget:,g}" for name, budget in plan.budgets.items()]
    return [
        *_wrap("comparing", [method.name for method in plan.methods]),
        *_wrap("on", [task.name for task in plan.tasks]),
        *_wrap(f"{' x '.join(sizes)} ({seeds}) =", [_count(cells, "cell")]),
        *_wrap("gradient evaluations per cell:", budgets),
        f"results go to {folder}",
    ]


def progress_lines(
    standings: Sequence[Standing], elapsed: float, width: int = WIDTH
) -> list[str]:
    """Per task: time, then by method budget and best median, then trials and errors."""
    tasks = dict.fromkeys(standing.cell.task for standing in standings)
    return [
        line
        for task in tasks
        for line in _task_lines(
            task, [s for s in standings if s.cell.task == task], elapsed, width
        )
    ]


def _task_lines(
    task: str, standings: list[Standing], elapsed: float, width: int
) -> list[str]:
    running = sum(standing.running for standing in standings)
    failed = sum(standing.failed for standing in standings)
    methods = dict.fromkeys(standing.cell.method for standing in standings)
    parts = [
        _method_part(method, [s for s in standings if s.cell.method == method])
        for method in methods
    ]
    trials = f"{running} running" + (f", {failed} failed" if failed else "")
    errors = {s.cell.method: s.error for s in reversed(standings) if s.error}
    return [
        *_wrap(f"{clock(elapsed)} {task}:", [*parts, trials], " | ", width),
        *(f"  {method}: {error}"[:width] for method, error in errors.items()),
    ]


def _method_part(method: str, standings: list[Standing]) -> str:
    share = math.floor(100 * statistics.fmean(s.share for s in standings))
    best = statistics.median(standing.best for standing in standings)
    value = f"{best:.4g}" if math.isfinite(best) else "-"
    return f"{method} {share:>2}% {value:<6}"


def clock(seconds: float) -> str:
    """A duration as m:ss or h:mm:ss."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _wrap(
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
        show: True for standard output, False for nothing, or what takes a line.
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

    def say(self, lines: Iterable[str]) -> None:
        """Lines that stay."""
        self._erase()
        for line in lines:
            self._write(line)

    def update(self, standings: Callable[[], Sequence[Standing]]) -> None:
        """Show where things stand, if the last time is long ago."""
        if time.monotonic() - self._last < self._every:
            return
        self._last = time.monotonic()
        width = WIDTH
        if self._in_place:
            width = min(WIDTH, shutil.get_terminal_size().columns - 1)
        lines = progress_lines(standings(), self.elapsed, width)
        self.say(lines)
        self._drawn = len(lines)

    def _erase(self) -> None:
        if self._in_place and self._drawn:
            print(f"\x1b[{self._drawn}F\x1b[J", end="")
        self._drawn = 0


def _print(line: str) -> None:
    print(line, flush=True)


def _ignore(line: str) -> None:
    pass
