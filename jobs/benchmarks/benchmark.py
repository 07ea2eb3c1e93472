"""Time and memory of hypergradients, side by side in one process and one thread.

Times are CPU time, compared within rounds of interleaved repetitions, so that whatever
else the machine does hits all methods alike. What is traced and compiled once is not
in them; compiling is measured by itself, in wall-clock time of fresh processes. Memory
is the peak of tensor bytes: exact, not the process's. Before anything is timed, all
methods must reach the same outer loss, and the exact ones the same hypergradient, in
double precision.
"""

import argparse
import gc
import os
import re
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from jobs.benchmarks.baselines import torchopt
from jobs.benchmarks.cases import LEARNED, MODELS, SMALL, Run, digits_run, small_run
from jobs.benchmarks.cli import folder
from jobs.benchmarks.compiling import compilation
from jobs.benchmarks.memory import peak_allocated, peak_bytes
from jobs.benchmarks.methods import METHODS, Method, both, exact, follow
from jobs.benchmarks.tables import growth_table, memory_table, time_table
from jobs.benchmarks.targets import COMPILED, Measured, target_table
from raymeta.cli import exit_code
from raymeta.hypergrad import Checkpointed, Forward, Reverse, ShortTerm


class Growth(NamedTuple):
    """Methods whose memory must grow with T^power, and the T to see it at."""

    methods: list[Method]
    steps: tuple[int, ...]
    power: float


GROWTHS = [
    Growth(both("Forward", Forward), (100, 10_000), 0),
    Growth([Method("ShortTerm", partial(follow, ShortTerm()))], (100, 1000), 0),
    Growth(both("Checkpointed", Checkpointed), (100, 400, 900, 1600), 0.5),
    Growth([exact("Reverse", Reverse)], (100, 200, 400, 1000), 1),
]
#: Steps within which all is traced and compiled that a run needs.
FIRST = 4


def require_agreement(model: str, steps: int, tolerance: float = 1e-8) -> None:
    """Raise ArithmeticError unless E, and the exact dE/dλ, are the same for all."""
    for learned in LEARNED:
        run = digits_run(model, steps, torch.float64, learned)
        outer_loss, grads = follow(Reverse(steps), run)
        truth = {"E": outer_loss, **grads}
        for method in (method for method in METHODS if method.learned == learned):
            outer_loss, grads = method.run(run)
            got = {"E": outer_loss, **grads}
            for key in truth if method.exact else ["E"]:
                error = float((got[key] - truth[key]).norm() / truth[key].norm())
                if not error <= tolerance:
                    where = f"{method.name} on {model}"
                    raise ArithmeticError(f"{where} is off by {error:.1e} in {key!r}")


def measure_time(model: str, steps: int, rounds: int) -> pd.DataFrame:
    """One row per method and round, interleaved: A, B, C, A, B, C."""
    runs = {key: digits_run(model, steps, torch.float32, key) for key in LEARNED}
    rows = []
    for method in METHODS:
        method.run(runs[method.learned]._replace(steps=FIRST))
    for i in range(rounds):
        gc.collect()
        for method in METHODS:
            start = time.process_time()
            method.run(runs[method.learned])
            rows.append((model, method.name, steps, i, time.process_time() - start))
    return pd.DataFrame(rows, columns=["model", "method", "steps", "round", "seconds"])


def peak(method: Method, run: Run) -> int:
    """Bytes of a whole run, after what is traced and compiled at its start."""
    method.run(run._replace(steps=FIRST))
    meter = peak_allocated if method.compiled else peak_bytes
    return meter(partial(method.run, run))


def measure_memory(model: str, steps: int) -> pd.DataFrame:
    """One row per exact method."""
    rows = [
        (
            model,
            method.name,
            steps,
            peak(method, digits_run(model, steps, torch.float32, method.learned)),
        )
        for method in METHODS
        if method.exact
    ]
    return pd.DataFrame(rows, columns=["model", "method", "steps", "peak_bytes"])


def measure_growth(scale: int) -> pd.DataFrame:
    """One row per method and length of the run, `scale` times shorter."""
    rows = [
        (SMALL, method.name, steps, peak(method, small_run(steps)), growth.power)
        for growth in GROWTHS
        for method in growth.methods
        for steps in (full // scale for full in growth.steps)
    ]
    columns = ["model", "method", "steps", "peak_bytes", "power"]
    return pd.DataFrame(rows, columns=columns)


def first_steps(model: str, name: str) -> Callable[[], object]:
    """The first steps by a method, in which all is traced and compiled."""
    (method,) = (method for method in METHODS if method.name == name)
    run = digits_run(model, FIRST, torch.float32, method.learned)
    return partial(method.run, run)


def measure_compiling(models: list[str]) -> pd.DataFrame:
    """One row per model and method that a limit is set for."""
    rows = [
        (model, name, FIRST, *compilation(first_steps, model, name))
        for model in models
        for name in COMPILED
    ]
    columns = ["model", "method", "steps", "cold", "warm", "again"]
    return pd.DataFrame(rows, columns=columns)


def machine() -> dict[str, str | int]:
    """Facts that times depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    name = re.search(r"model name\s*: (.+)", text)
    return {
        "cpu": name[1] if name else "unknown",
        "cores": os.cpu_count() or 0,
        "torch": torch.__version__,
        "higher": version("higher"),
        "torchopt": version("torchopt") if torchopt else "not installed",
        "threads": torch.get_num_threads(),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write; fail if memory does not grow as it should."""
    style = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument(
        "--out", type=folder, default="results/benchmark", help="folder of tables"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--steps", nargs="+", type=int, default=[100, 1000])
    parser.add_argument(
        "--quick", action="store_true", help="3 rounds of 20 steps of one model"
    )
    options = parser.parse_args(arguments)
    models, lengths, scale, full = options.models, options.steps, 1, True
    if options.quick:
        models, lengths, scale, full = models[:1], [20], 25, False
    # Before anything is compiled: code is made for so many threads.
    torch.set_num_threads(1)
    print(*(f"{name} {value}" for name, value in machine().items()), sep=", ")
    if torchopt is None:
        print("TorchOpt is left out: pip install -r requirements-bench.txt")
    for model in models:
        require_agreement(model, min(lengths))

    times = pd.concat(
        measure_time(model, steps, rounds=max(3, 1500 // steps) if full else 3)
        for steps in lengths
        for model in models
    )
    show("CPU time of a run and its gradients, ratios within rounds", time_table(times))
    memory = pd.concat(measure_memory(model, max(lengths)) for model in models)
    show(f"Peak megabytes of a run of {max(lengths)} steps", memory_table(memory))
    growth = measure_growth(scale)
    grown = growth_table(growth)
    show(f"How peak bytes grow with T, {SMALL}", grown)
    compiling = measure_compiling(models if full else [])
    show("Seconds to compile, in a first and a second process", compiling)
    measured = Measured(times, memory, growth, compiling)
    targets = target_table(measured)
    show("Figures to reach", targets)

    for name, frame in {**measured._asdict(), "targets": targets}.items():
        file = options.out / f"{name}.parquet"
        frame.assign(**machine()).to_parquet(file, index=False)
    if not grown["as expected"].all():
        raise SystemExit("memory does not grow with the steps as it should: see above")


def show(title: str, table: pd.DataFrame) -> None:
    """Print a table."""
    text = table.to_string(index=False, float_format="{:,.3f}".format)
    print(f"\n{title}\n{text}", flush=True)


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
