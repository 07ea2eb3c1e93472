"""A program with Ray, and a Tuner, of its own before and after raymeta."""

import logging
import os
import random
import signal
import sys
import warnings

import numpy as np
import ray
import torch
from ray import tune

import raymeta

NICENESS = "RAY_worker_niceness"


def trial(config):
    for i in range(3):
        tune.report({"loss": config["x"] + 1 / (i + 1)})


def tuned(folder, name):
    grid = tune.Tuner(
        trial,
        param_space={"x": tune.grid_search([0.1, 0.2])},
        run_config=tune.RunConfig(name=name, storage_path=folder, verbose=0),
    ).fit()
    files = {file for result in grid for file in os.listdir(result.path)}
    return grid.get_dataframe().shape, "result.json" in files


def state():
    ray_log, root = logging.getLogger("ray"), logging.root
    return {
        "environment": dict(os.environ),
        "handlers": {n: signal.getsignal(n) for n in signal.valid_signals()},
        "path": list(sys.path),
        "folder": os.getcwd(),
        "filters": list(warnings.filters),
        "loggers": [(x.level, x.propagate, list(x.handlers)) for x in (ray_log, root)],
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
        "settings": (torch.get_default_dtype(), torch.get_num_threads()),
    }


def start():
    options = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False}
    # Ray's own is 15: beside other tests, its workers would wait for minutes.
    os.environ[NICENESS] = "0"
    ray.init("local", logging_level="ERROR", object_store_memory=80 << 20, **options)
    del os.environ[NICENESS]


def interrupt(line):
    if "Ray is up" in line:
        raise KeyboardInterrupt


def compared(folder, name, **more):
    before = state()
    options = {"seeds": 1, "budget": 60, "name": name, "progress": False} | more
    try:
        raymeta.compare("quadratic", "random", storage=folder, **options)
    except (ValueError, KeyboardInterrupt) as error:
        print(name, type(error).__name__)
    for what, value in state().items():
        assert value == before[what], (name, what, before[what], value)


def main(folder):
    compared(folder, "refused", budget=1)
    compared(folder, "interrupted", progress=interrupt)
    start()  # with a token of its own
    first = tuned(folder, "first")
    compared(folder, "beside")
    second = tuned(folder, "second")
    ray.shutdown()
    assert first == second, (first, second)
    assert first[0][0] == 2
    print("the same")


if __name__ == "__main__":
    main(sys.argv[1])
