"""Ray as a comparison needs it: quiet, and embedded unless the caller brings a cluster.

Every module of `raymeta.search` is imported after this one (`__init__` sees to it), so
that these settings are in place when Ray is first imported.
"""

import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

for _name, _value in {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no three log files a trial
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # the journal replaces Tune's snapshots
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a failed trial is a row, not a traceback
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `Interrupt` instead
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # 2 s lose trials on a busy machine
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0 the old output prints nothing
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # trials see the GPUs there are
}.items():
    os.environ.setdefault(_name, _value)

if not {"RAY_ADDRESS", "RAY_AUTH_MODE"} & set(os.environ) and "ray" not in sys.modules:
    # An embedded Ray listens on every interface: a token that only its own processes
    # know keeps others from running code in it.
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

import optuna  # noqa: E402
import ray  # noqa: E402

OBJECT_STORE_BYTES = 80 << 20  # of an embedded Ray: tasks and methods, nothing large


@contextmanager
def running(slots: int | None) -> Iterator[int]:
    """Ray, for the time of a comparison.

    A Ray that runs already is used and left alone; `RAY_ADDRESS` names a cluster to
    connect to; otherwise an embedded one starts and ends with the context.

    Args:
        slots: trials at once; as many as the cluster has CPUs by default.

    Yields:
        How many trials to run at once.

    Raises:
        ValueError: the cluster has no CPU.
    """
    if ray.is_initialized():
        yield slots or _cpus()
        return
    _start(slots)
    try:
        yield slots or _cpus()
    finally:
        with _uninterrupted():
            ray.shutdown()


def _start(slots: int | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        _init(quiet)
        return
    embedded = {
        "address": "local",
        "num_cpus": slots,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        **quiet,
    }
    try:
        _init(embedded)
    except Exception:
        # A busy machine may exceed Ray's own start limit of 30 s, once.
        _init(embedded)


def _init(options: dict[str, Any]) -> None:
    try:
        ray.init(**options)
    except BaseException:
        with _uninterrupted():
            ray.shutdown()
        raise


def _cpus() -> int:
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < 1:
        raise ValueError(
            "a comparison needs a Ray cluster with at least one CPU, but this one has "
            "none: pass slots= to wait for nodes that are about to join"
        )
    return cpus


@contextmanager
def silence() -> Iterator[None]:
    """Keep Tune and Optuna from speaking: failed trials are rows of the frame."""
    tune_log = logging.getLogger("ray.tune")
    before = tune_log.level, optuna.logging.get_verbosity()
    tune_log.setLevel(logging.CRITICAL)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        tune_log.setLevel(before[0])
        optuna.logging.set_verbosity(before[1])


class Interrupt:
    """Ctrl-C as a request: the first asks to stop, the second stops at once.

    Attributes:
        requested: whether Ctrl-C was pressed inside the context.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "Interrupt":
        # Only the main thread may handle signals; elsewhere Ctrl-C is not ours.
        self._mine = threading.current_thread() is threading.main_thread()
        if self._mine:
            self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._mine:
            signal.signal(signal.SIGINT, self._previous)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C: an interrupted shutdown would leave Ray's processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
