"""Ray sessions: quiet, and embedded unless the caller brings a cluster.

What Ray reads from the environment is set around the imports and the calls that need it
(`prepared`), and nowhere else: a Tuner of the caller's own finds Ray as it always is.
"""

import importlib
import logging
import math
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raymeta.process import preserved
from raymeta.runtime.interrupt import uninterrupted
from raymeta.runtime.session_folder import session_folder

VARIABLES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no three log files a trial
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # the journal replaces Tune's snapshots
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a failed trial is a row, not a traceback
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `Interrupt` instead
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # 2 s lose trials on a busy machine
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0 the old output prints nothing
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # 2 s notice the end of a run late
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # trials see the GPUs there are
}


@contextmanager
def prepared() -> Iterator[None]:
    """The environment with what Ray needs to know, unless the caller has set it.

    What Ray starts inside inherits it.
    """
    with preserved():
        for name, value in VARIABLES.items():
            os.environ.setdefault(name, value)
        yield


with prepared():
    import ray
    from ray._private.ray_logging import stdout_deduplicator
    from ray._raylet import (  # type: ignore[attr-defined]
        AuthenticationTokenLoader,
        Config,
    )

    # Ray brings it along, on a path of its own, and asks for it late.
    importlib.import_module("psutil")

#: How the paragraph begins that a raylet sends to every driver.
DEATH = "A worker died or was killed while executing a task"
CONNECT_S = 10.0
OBJECT_STORE_BYTES = 80 << 20  # of an embedded Ray: tasks and methods, nothing large


@contextmanager
def running(slots: int | None, cpus: float = 1.0) -> Iterator[int]:
    """Ray, for the time of a job; the process is as before when it ends.

    A Ray that runs already is used and left alone; `RAY_ADDRESS` names a cluster to
    connect to; otherwise an embedded one starts and ends with the context.

    Args:
        slots: jobs at once; as many as the cluster has CPUs for by default.
        cpus: those of a job on several processes.

    Yields:
        How many jobs to run at once.

    Raises:
        ValueError: the cluster has no CPU; none answers at `RAY_ADDRESS`, or it has
            other versions or another token.
    """
    with prepared(), quiet_deaths():
        if ray.is_initialized():
            yield slots or _room(cpus)
            return
        with own_token(), session_folder() as folder:
            _start(slots and math.ceil(slots * max(cpus, 1.0)), folder)
            try:
                yield slots or _room(cpus)
            finally:
                with uninterrupted():
                    ray.shutdown()


def verbose() -> bool:
    """Whether Ray is to say what it says by itself: `RAYMETA_VERBOSE`, `-v`."""
    return os.environ.get("RAYMETA_VERBOSE", "") not in ("", "0")


@contextmanager
def quiet_deaths() -> Iterator[None]:
    """Keep Ray's paragraphs about dead workers off the screen: runs say so."""
    if verbose():
        yield
        return
    before = stdout_deduplicator.skip_re
    others = [] if before is None else [before.pattern]
    stdout_deduplicator.skip_re = re.compile("|".join([*others, DEATH]))
    try:
        yield
    finally:
        stdout_deduplicator.skip_re = before


@contextmanager
def own_token() -> Iterator[None]:
    """A token for an embedded Ray, unless the caller has decided about tokens.

    It listens on every interface: a token that only its own processes know keeps others
    from running code in it.
    """
    try:
        with preserved():
            if not {"RAY_ADDRESS", "RAY_AUTH_MODE"} & set(os.environ):
                os.environ["RAY_AUTH_MODE"] = "token"
                os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
            _read_token()
            yield
    finally:
        _read_token()


def _read_token() -> None:
    """Make Ray read its mode and token again: this process' next Ray has others."""
    Config.initialize("")  # first: a thread that ends may look for a token meanwhile
    AuthenticationTokenLoader.instance().reset_cache()


def _start(cpus: int | None, folder: Path) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if verbose():
        quiet = {"log_to_driver": True, "logging_level": logging.INFO}
    if address := os.environ.get("RAY_ADDRESS"):
        _join(address, quiet)
        return
    embedded = {
        "address": "local",
        "num_cpus": cpus,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "_temp_dir": str(folder),
        **quiet,
    }
    try:
        _init(embedded)
    except Exception:
        # A busy machine may exceed Ray's own start limit of 30 s, once.
        _init(embedded)


def _join(address: str, options: dict[str, Any]) -> None:
    """Connect to a cluster; what is wrong with it in one line."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in address:
        try:
            # Ray itself would try for minutes.
            socket.create_connection((host, int(port)), CONNECT_S).close()
        except OSError as error:
            raise ValueError(
                f"RAY_ADDRESS={address} must be that of a running cluster, but nothing "
                f"answers there ({error}): start it, or unset RAY_ADDRESS for an "
                "embedded one"
            ) from None
    try:
        _init(options)
    except (RuntimeError, ConnectionError, ray.exceptions.RayError) as error:
        # Ray names other versions of itself or Python; not that a token is wrong.
        raise ValueError(
            f"the cluster at RAY_ADDRESS={address} refuses this process: "
            f"{' '.join(str(error).split())}: take its versions of Ray and Python, and "
            "its token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH)"
        ) from None


def _init(options: dict[str, Any]) -> None:
    try:
        ray.init(**options)
    except BaseException:
        with uninterrupted():
            ray.shutdown()
        raise


def _room(each: float) -> int:
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < 1:
        raise ValueError(
            "a comparison needs a Ray cluster with at least one CPU, but this one has "
            "none: pass slots= to wait for nodes that are about to join"
        )
    return max(1, int(cpus / max(each, 1.0)))
