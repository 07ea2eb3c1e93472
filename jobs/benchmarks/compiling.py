"""How long compilation takes, and whether a later process is spared it."""

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch


class Compilation(NamedTuple):
    """What compiling took in two processes, one after the other.

    Attributes:
        cold: seconds of the first call in the first, whose cache is empty.
        warm: seconds of the first call in the second, which finds the first's cache.
        again: libraries that the second compiled nevertheless.
    """

    cold: float
    warm: float
    again: int


def compilation(
    prepare: Callable[..., Callable[[], object]], *args: object
) -> Compilation:
    """Measure a call that compiles, in fresh processes of one thread.

    Args:
        prepare: makes the call; of a module, so that another process finds it.
        *args: its arguments.
    """
    with tempfile.TemporaryDirectory() as cache:
        cold = _in_fresh_process(_first_call, cache, prepare, args)
        compiled = _libraries(cache)
        warm = _in_fresh_process(_first_call, cache, prepare, args)
        return Compilation(cold, warm, len(_libraries(cache) - compiled))


def _in_fresh_process(function: Callable[..., float], *args: object) -> float:
    # Spawned, not forked: a forked child would inherit what is compiled already.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def _first_call(cache: str, prepare: Callable[..., Callable], args: tuple) -> float:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    torch.set_num_threads(1)
    call = prepare(*args)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _libraries(cache: str) -> set[Path]:
    return set(Path(cache).rglob("*.so"))
