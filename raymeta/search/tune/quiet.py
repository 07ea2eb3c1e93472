"""Tune and Optuna as a comparison needs them: silent."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import optuna

from raymeta.runtime import ray_session


@contextmanager
def quiet_tune() -> Iterator[None]:
    """Keep Tune and Optuna from speaking: failed trials are rows of the frame."""
    if ray_session.verbose():
        yield
        return
    tune_log = logging.getLogger("ray.tune")
    before = tune_log.level, optuna.logging.get_verbosity()
    tune_log.setLevel(logging.CRITICAL)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        tune_log.setLevel(before[0])
        optuna.logging.set_verbosity(before[1])
