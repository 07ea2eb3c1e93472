"""Process-wide state, given back as whoever calls raymeta had it.

Ray, Tune, Optuna, scikit-learn and torch's compiler set environment variables, signal
handlers, levels of logging and warning filters when they are imported or run, and a
task may seed the global random streams. Whoever calls raymeta may use them all himself.
"""

import faulthandler
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

Restore = Callable[[], None]


@contextmanager
def preserved() -> Iterator[None]:
    """Give back everything global as it was, whatever happens inside.

    The environment, the working directory, `sys.path`, signal handlers, hooks of
    errors, loggers, warning filters, the random streams of Python, NumPy and torch, and
    torch's default dtype and threads. What is imported stays imported.
    """
    with ExitStack() as stack, warnings.catch_warnings():
        for keep in (_environment, _paths, _signals, _hooks, _loggers, _randomness):
            stack.callback(keep())
        yield


def _environment() -> Restore:
    before = dict(os.environ)

    def restore() -> None:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value

    return restore


def _paths() -> Restore:
    folder, path = os.getcwd(), list(sys.path)

    def restore() -> None:
        sys.path[:] = path
        if os.getcwd() != folder:
            os.chdir(folder)

    return restore


def _signals() -> Restore:
    """Only the main thread may set handlers, and only those that Python knows."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def restore() -> None:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)

    return restore


def _hooks() -> Restore:
    hook, told = sys.excepthook, faulthandler.is_enabled()

    def restore() -> None:
        sys.excepthook = hook
        if not told:
            faulthandler.disable()

    return restore


def _loggers() -> Restore:
    known = logging.root.manager.loggerDict.values()
    loggers = [logging.root, *(x for x in known if isinstance(x, logging.Logger))]
    before = [(x, x.level, x.propagate, x.disabled, list(x.handlers)) for x in loggers]

    def restore() -> None:
        for logger, level, propagate, disabled, handlers in before:
            if logger.level != level:
                logger.setLevel(level)
            logger.propagate, logger.disabled = propagate, disabled
            logger.handlers[:] = handlers

    return restore


def _randomness() -> Restore:
    """The streams of what is imported; torch's settings go with them."""
    python = random.getstate()
    restores: list[Restore] = [lambda: random.setstate(python)]
    if numpy := sys.modules.get("numpy"):
        stream = numpy.random.get_state()
        restores.append(lambda: numpy.random.set_state(stream))
    if torch := sys.modules.get("torch"):
        restores.append(_torch(torch))

    def restore() -> None:
        for each in restores:
            each()

    return restore


def _torch(torch: Any) -> Restore:
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    cpu = torch.get_rng_state()
    used = torch.cuda.is_initialized()
    cuda = torch.cuda.get_rng_state_all() if used else []

    def restore() -> None:
        torch.set_rng_state(cpu)
        if used:
            torch.cuda.set_rng_state_all(cuda)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

    return restore
