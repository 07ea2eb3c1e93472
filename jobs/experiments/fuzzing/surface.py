"""A surface, and what may become of a case on it: taken, or refused in one line."""

import contextlib
import io
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis.strategies import SearchStrategy

#: Seconds of computing, and of waiting, after which a case counts as one that hangs.
HANGS_S, WAITS_S = 20, 300


class Surface(NamedTuple):
    """What is fuzzed.

    Attributes:
        about: what it is, for the table.
        cases: what is given.
        wrong: case -> what is wrong with how it was taken; "" where nothing is.
    """

    about: str
    cases: SearchStrategy[Any]
    wrong: Callable[[Any], str]


def refusal(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call returns, and what is wrong with how it was refused, if it was.

    Refused well is a ValueError of one line. Names of arguments that there are not, or
    that are missing, Python itself refuses. Ctrl-C ends a stand-in for work.
    """
    try:
        with _in_time(), _quiet():
            return call(), ""
    except ValueError as error:
        return None, "" if "\n" not in str(error) else f"several lines: {error}"
    except TypeError as error:
        of_names = (
            "required positional argument",
            "required keyword-only argument",
            "unexpected keyword argument",
        )
        fits = any(words in str(error) for words in of_names)
        return None, "" if fits else _place(error)
    except KeyboardInterrupt:
        return None, ""
    except Exception as error:
        return None, _place(error)


def exit_of(call: Callable[[], int]) -> str:
    """What is wrong with how a command ended: done, or code 2 after one line."""
    said = io.StringIO()
    try:
        with _in_time(), _quiet(), contextlib.redirect_stderr(said):
            code: Any = call()
    except SystemExit as end:  # of argparse: usage and one line
        code = end.code
        lines = said.getvalue().splitlines()
        if code == 2 and ": error: " in lines[-1]:
            return ""
    except Exception as error:
        return _place(error)
    lines = [line for line in said.getvalue().splitlines() if "error: " in line]
    if code == 2 and len(lines) != 1:
        return f"{len(lines)} lines of error: {said.getvalue()[-300:]}"
    return "" if code in (0, 2, 130) else f"exit code {code}"


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    """Raise TimeoutError in what hangs; a machine that others use is no slower."""

    def ring(number: int, _: object) -> None:
        raise TimeoutError(f"no end by {signal.Signals(number).name}")

    clocks = {signal.SIGPROF: (signal.ITIMER_PROF, HANGS_S)}
    clocks[signal.SIGALRM] = (signal.ITIMER_REAL, WAITS_S)
    before = {number: signal.signal(number, ring) for number in clocks}
    try:
        for timer, seconds in clocks.values():
            signal.setitimer(timer, seconds)
        yield
    finally:
        for number, (timer, _) in clocks.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _place(error: Exception) -> str:
    """An exception and where raymeta, or else the last of all, raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/raymeta/" in frame.filename] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
    return f"{type(error).__name__} at {place}: {' '.join(str(error).split())[:120]}"
