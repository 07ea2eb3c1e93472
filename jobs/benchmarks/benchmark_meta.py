"""Time of meta-training: against loops with `higher`, and on more workers.

One process, one thread: a step of second-order MAML (the gradient of the mean loss over
all tasks) by raymeta and by the loop over tasks of `higher`'s example, in CPU time,
compared within rounds of interleaved steps. Before anything is timed, all must agree on
the loss and the meta-gradient in double precision.

Workers: processes of one thread that share the tasks of a step through
`DistributedDataParallel` and Gloo, in rounds of one worker, then two, by wall-clock.
The time of an all-reduce is measured for several sizes and numbers of processes; the
model fitted to it says what share of a step communication would take on more workers.
"""

import argparse
import gc
import time
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor, nn

from jobs.benchmarks.all_reduce import extrapolated, fitted
from jobs.benchmarks.benchmark import machine, show
from jobs.benchmarks.cli import folder
from jobs.benchmarks.meta_cases import CASES, Case, unroll_tasks_with_higher
from jobs.benchmarks.meta_workers import measure_workers
from raymeta.cli import exit_code
from raymeta.meta import MetaModule

RAYMETA, COMPILED, ENGINE = "raymeta", "raymeta, compiled", "raymeta, engine='higher'"
HIGHER = "higher, by hand"
#: (case, method, over, at least): how many times faster.
TARGETS = (
    ("sinusoid MLP", RAYMETA, 8.0),
    ("sinusoid MLP", COMPILED, 40.0),
    ("5-way digits CNN", RAYMETA, 1.5),
)
#: Tasks per second of two workers over those of one.
TWO_WORKERS = 1.7
#: Workers to say the share of communication for.
EXTRAPOLATED = (2, 8, 64, 512)

#: Does one outer step's forward and backward pass; returns the loss.
Step = Callable[[int], Tensor]


def methods(case: Case) -> dict[str, tuple[nn.Module, Step]]:
    """Name -> the module that holds θ, and what leaves gradients in it."""
    network = case.network()

    def by_hand(step: int) -> Tensor:
        return unroll_tasks_with_higher(case, network, case.episodes(step))

    def of(module: MetaModule) -> tuple[nn.Module, Step]:
        def step(number: int) -> Tensor:
            loss = module(case.episodes(number)).loss
            loss.backward()
            return loss.detach()

        return module, step

    return {
        HIGHER: (network, by_hand),
        RAYMETA: of(MetaModule(case.learner())),
        COMPILED: of(MetaModule(case.learner(), compile=True)),
        ENGINE: of(MetaModule(case.learner(), engine="higher")),
    }


def require_agreement(case: Case, tolerance: float = 1e-10) -> None:
    """Raise ArithmeticError unless all find the same loss and meta-gradient."""
    torch.set_default_dtype(torch.float64)
    try:
        truth: Tensor | None = None
        for name, (module, step) in methods(case).items():
            loss = step(0)
            grads = [p.grad for p in module.parameters() if p.grad is not None]
            got = torch.cat([loss.view(1), *(grad.flatten() for grad in grads)])
            truth = got if truth is None else truth
            error = float((got - truth).norm() / truth.norm())
            if not error <= tolerance:
                raise ArithmeticError(f"{name} is off by {error:.1e} on {case.name}")
    finally:
        torch.set_default_dtype(torch.float32)


def measure_steps(case: Case, rounds: int, repeats: int) -> pd.DataFrame:
    """One row per method and round, interleaved."""
    rows, steps = [], methods(case)
    for module, step in steps.values():
        step(0)
        module.zero_grad()
    for i in range(rounds):
        for name, (module, step) in steps.items():
            # higher's graphs are cycles, which only the collector frees.
            gc.collect()
            start = time.process_time()
            for repeat in range(repeats):
                module.zero_grad()
                step(repeat)
            seconds = (time.process_time() - start) / repeats
            rows.append((case.name, name, i, seconds))
    return pd.DataFrame(rows, columns=["case", "method", "round", "seconds"])


def step_table(steps: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds of a step, and how many times faster than by hand."""
    rows = []
    for case, of_case in steps.groupby("case", sort=False):
        seconds = of_case.pivot(index="round", columns="method", values="seconds")
        for method in of_case["method"].unique():
            faster = seconds[HIGHER] / seconds[method]
            spread = f"{faster.median():.2f} ({faster.min():.2f}–{faster.max():.2f})"
            rows.append((case, method, 1e3 * seconds[method].median(), spread))
    return pd.DataFrame(rows, columns=["case", "method", "ms/step", "times faster"])


def target_table(steps: pd.DataFrame, workers: pd.DataFrame) -> pd.DataFrame:
    """One row per figure to reach."""
    rows = []
    for case, method, least in TARGETS:
        of_case = steps[steps["case"] == case]
        if of_case.empty:
            continue
        seconds = of_case.pivot(index="round", columns="method", values="seconds")
        figure = (seconds[HIGHER] / seconds[method]).median()
        rows.append((f"{case}: {method}", figure, least))
    rows.append(("two workers / one", speedup(workers).median(), TWO_WORKERS))
    table = pd.DataFrame(rows, columns=["figure", "is", "at least"])
    return table.assign(reached=table["is"] >= table["at least"])


def speedup(workers: pd.DataFrame) -> pd.Series:
    """Tasks per second of two workers over those of one, by round."""
    rate = workers.pivot(index="round", columns="workers", values="tasks_per_s")
    return rate[2] / rate[1]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    style = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument(
        "--out",
        type=folder,
        default="results/benchmark-meta",
        help="folder of tables",
    )
    parser.add_argument("--quick", action="store_true", help="the MLP, few repetitions")
    options = parser.parse_args(arguments)
    cases, rounds, repeats = CASES, 9, 5
    if options.quick:
        cases, rounds, repeats = CASES[:1], 2, 1
    torch.set_num_threads(1)
    print(*(f"{name} {value}" for name, value in machine().items()), sep=", ")
    for case in cases:
        require_agreement(case)

    steps = pd.concat(measure_steps(case, rounds, repeats) for case in cases)
    show("CPU time of a step of MAML, ratios within rounds", step_table(steps))

    shared = cases[-1]
    worlds = (2,) if options.quick else (2, 4, 8)
    workers, transfers = measure_workers(shared, rounds, repeats, worlds)
    show(f"Workers that share the tasks of {shared.name}", workers)
    model = fitted(transfers)
    show("Time of an all-reduce: measured, and by the model", model.compared(transfers))
    parameters = sum(p.numel() for p in shared.network().parameters())
    alone = workers[workers["workers"] == 1]["step_s"].median()
    shares = extrapolated(model, 4 * parameters, alone, EXTRAPOLATED)
    show(f"Communication, {parameters:,} float32, {alone:.3f} s of computing", shares)
    targets = target_table(steps, workers)
    show("Figures to reach", targets)

    tables = {
        "steps": steps,
        "workers": workers,
        "all_reduce": transfers,
        "communication": shares,
        "targets": targets,
    }
    for name, frame in tables.items():
        file = options.out / f"{name}.parquet"
        frame.assign(**machine()).to_parquet(file, index=False)


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
