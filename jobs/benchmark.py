"""Memory and time of hypergradients, side by side in one process and one thread.

Memory is the peak of live tensor bytes: exact, not the process's. Times are CPU time,
compared within rounds of interleaved repetitions, so that whatever else the machine
does hits all methods alike. Before anything is timed, all methods must reach the same
outer loss, and the exact ones the same hypergradient, in double precision.
"""

import argparse
import gc
import os
import re
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import higher
import numpy as np
import pandas as pd
import torch
from _meter import peak_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from raymeta import BilevelProblem, Tensors, descent, module_problem
from raymeta.data import digits, split
from raymeta.hypergrad import (
    Checkpointed,
    Estimator,
    Forward,
    Reverse,
    Reversible,
    ShortTerm,
)
from raymeta.optim import Optimizer, sgd


class Run(NamedTuple):
    """A training run as raymeta sees it, and what plain PyTorch needs for the same."""

    problem: BilevelProblem
    hparams: Tensors
    steps: int
    network: nn.Module = nn.Identity()
    val: tuple[Tensor, ...] = ()


#: What a run ends with: E(s_T), and dE/dλ unless it only trains.
Outcome = tuple[Tensor, Tensors]


def torch_sgd(network: nn.Module, hparams: Tensors) -> torch.optim.SGD:
    """The inner optimizer of all cases, PyTorch's."""
    lr, momentum = float(hparams["lr"]), float(hparams["momentum"])
    return torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum)


def raymeta_sgd(hparams: Tensors) -> Optimizer:
    """The inner optimizer of all cases, raymeta's."""
    return sgd(hparams["lr"], momentum=hparams["momentum"])


def plain_torch(run: Run) -> Outcome:
    """Training as PyTorch users write it."""
    network = deepcopy(run.network)
    optimizer = torch_sgd(network, run.hparams)
    for t in range(run.steps):
        inputs, targets = run.problem.batch(t).data
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), targets).backward()
        optimizer.step()
    with torch.no_grad():
        inputs, targets = run.val
        return F.cross_entropy(network(inputs), targets), {}


def plain_raymeta(run: Run) -> Outcome:
    """Training by `BilevelProblem.step`."""
    problem, state = run.problem, run.problem.init(run.hparams)
    for t in range(run.steps):
        state = problem.step(state, run.hparams, problem.batch(t))
    with torch.no_grad():
        return problem.outer_loss(state, run.hparams), {}


def unroll_with_higher(run: Run) -> Outcome:
    """Back-propagation through the run by `higher`."""
    leaves = {name: v.detach().requires_grad_() for name, v in run.hparams.items()}
    optimizer = torch_sgd(run.network, run.hparams)
    override = {name: [leaf] for name, leaf in leaves.items()}
    with higher.innerloop_ctx(run.network, optimizer, override=override) as (net, opt):
        for t in range(run.steps):
            inputs, targets = run.problem.batch(t).data
            opt.step(F.cross_entropy(net(inputs), targets))
        inputs, targets = run.val
        outer_loss = F.cross_entropy(net(inputs), targets)
        grads = torch.autograd.grad(outer_loss, list(leaves.values()))
    return outer_loss.detach(), dict(zip(leaves, grads, strict=True))


def follow(estimator: Estimator, run: Run) -> Outcome:
    """A whole run by an estimator: one estimate, or one after each of its steps."""
    rollout = estimator.init(run.problem, run.hparams)
    while rollout.step < run.steps:
        last, rollout = estimator.estimate(run.problem, run.hparams, rollout)
    return last.outer_loss, last.grads


class Method(NamedTuple):
    """A row of the time table; `exact` if its gradient is the whole run's."""

    name: str
    run: Callable[[Run], Outcome]
    exact: bool = False


class MemoryCase(NamedTuple):
    """Rows of the memory table, one per length of the run."""

    name: str
    estimator: Callable[[int], Estimator]
    steps: tuple[int, ...]
    grows: bool


HPARAMS = {"lr": torch.tensor(0.05), "momentum": torch.tensor(0.7)}
PLAIN, PEER = "plain torch.optim", "higher"
METHODS = [
    Method(PLAIN, plain_torch),
    Method("plain raymeta", plain_raymeta),
    Method("Reverse", lambda run: follow(Reverse(run.steps), run), exact=True),
    Method("Checkpointed", lambda run: follow(Checkpointed(run.steps), run), True),
    Method("Reversible", lambda run: follow(Reversible(run.steps), run), True),
    Method("Forward", lambda run: follow(Forward(run.steps), run), exact=True),
    Method("ShortTerm, each step", partial(follow, ShortTerm())),
    Method(PEER, unroll_with_higher, exact=True),
]
MODELS: dict[str, Callable[[], nn.Module]] = {
    "MLP 64-128-10": lambda: nn.Sequential(
        nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 10)
    ),
}
MEMORY = [
    MemoryCase("Forward", Forward, (100, 10_000), grows=False),
    MemoryCase("Reverse", Reverse, (100, 200, 400, 1000), grows=True),
    MemoryCase("ShortTerm", lambda _: ShortTerm(), (100, 1000), grows=False),
]


def digits_run(model: str, steps: int, dtype: torch.dtype) -> Run:
    """A network on the digits, in batches of 64; validated on 449 images."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = MODELS[model]().to(dtype)
    x, y = digits()
    train, val, _ = split(x.to(dtype), y, fractions=(0.5, 0.25), seed=0)
    problem = module_problem(
        network,
        loss=F.cross_entropy,
        train=train,
        val=val,
        batch_size=64,
        optimizer=raymeta_sgd,
    )
    hparams = {name: value.to(dtype) for name, value in HPARAMS.items()}
    return Run(problem, hparams, steps, network, val.tensors)


def small_problem() -> BilevelProblem:
    """An MLP 4-8-1 on a fixed batch of 16: ten thousand steps in a minute."""
    generator = torch.Generator().manual_seed(0)
    shapes = (16, 4), (16, 1), (4, 8), (8, 1)
    x, y, first, last = (torch.randn(*s, generator=generator) for s in shapes)

    def loss(params: Tensors, *_: object) -> Tensor:
        return ((x @ params["first"]).tanh() @ params["last"] - y).square().mean()

    return descent(
        init_params=lambda _: {"first": first, "last": last},
        inner_loss=loss,
        outer_loss=loss,
        optimizer=raymeta_sgd,
    )


def require_agreement(model: str, steps: int, tolerance: float = 1e-8) -> None:
    """Raise ArithmeticError unless E, and the exact dE/dλ, are the same for all."""
    run = digits_run(model, steps, torch.float64)
    truth: Tensors = {}
    for method in sorted(METHODS, key=lambda method: not method.exact):
        outer_loss, grads = method.run(run)
        got = {"E": outer_loss, **grads}
        truth = truth or got
        for key in truth if method.exact else ["E"]:
            error = float((got[key] - truth[key]).norm() / truth[key].norm())
            if not error <= tolerance:
                where = f"{method.name} on {model}"
                raise ArithmeticError(f"{where} is off by {error:.1e} in {key!r}")


def measure_time(model: str, steps: int, rounds: int) -> pd.DataFrame:
    """One row per method and round, interleaved: A, B, C, A, B, C."""
    run = digits_run(model, steps, torch.float32)
    rows = []
    for i in range(rounds + 1):
        gc.collect()
        for method in METHODS:
            start = time.process_time()
            method.run(run)
            rows.append((model, method.name, steps, i, time.process_time() - start))
    warm = rows[len(METHODS) :]  # without the first round
    return pd.DataFrame(warm, columns=["model", "method", "steps", "round", "seconds"])


def measure_memory(scale: int) -> pd.DataFrame:
    """One row per memory case and length of the run, `scale` times shorter."""
    problem = small_problem()
    rows = []
    for case in MEMORY:
        for steps in (full // scale for full in case.steps):
            run = Run(problem, HPARAMS, steps)
            peak = peak_bytes(partial(follow, case.estimator(steps), run))
            rows.append((case.name, steps, peak))
    return pd.DataFrame(rows, columns=["estimator", "steps", "peak_bytes"])


def time_table(times: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds a step, and ratios within a round: median (min–max)."""
    rows = []
    for model, of_model in times.groupby("model"):
        seconds = of_model.pivot(index="round", columns="method", values="seconds")
        per_step = 1e3 * seconds.median() / of_model["steps"].iloc[0]
        for method in (method.name for method in METHODS):
            row = {"model": model, "method": method, "ms/step": per_step[method]}
            for base in (PLAIN, PEER):
                ratio = seconds[method] / seconds[base]
                spread = f"({ratio.min():.2f}–{ratio.max():.2f})"
                row[f"over {base}"] = f"{ratio.median():.2f} {spread}"
            rows.append(row)
    return pd.DataFrame(rows)


def memory_table(memory: pd.DataFrame) -> pd.DataFrame:
    """How each estimator's memory grows with the steps, and whether it should."""
    rows = []
    for case in MEMORY:
        of_case = memory[memory["estimator"] == case.name]
        steps, peak = of_case["steps"].to_numpy(), of_case["peak_bytes"].to_numpy()
        slope, start = np.polyfit(steps, peak, 1)
        residual = np.max(np.abs(slope * steps + start - peak) / peak)
        growth = peak.max() / peak.min() - 1
        passed = residual <= 0.05 < growth if case.grows else growth <= 0.05
        rows.append((case.name, slope, residual, growth, passed))
    columns = ["estimator", "bytes/step", "residual", "growth", "as expected"]
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
        "threads": torch.get_num_threads(),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write; fail if memory does not grow as it should."""
    style = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("--out", default="results/benchmark", help="folder of the rows")
    parser.add_argument("--quick", action="store_true", help="3 rounds of short runs")
    options = parser.parse_args(arguments)
    steps, rounds, scale = (20, 3, 20) if options.quick else (100, 15, 1)
    torch.set_num_threads(1)
    print(*(f"{name} {value}" for name, value in machine().items()), sep=", ")
    for model in MODELS:
        require_agreement(model, steps)
    times = pd.concat([measure_time(model, steps, rounds) for model in MODELS])
    memory = measure_memory(scale)
    growth = memory_table(memory)
    for title, table in (
        (f"CPU time of a run of {steps} steps and its gradients", time_table(times)),
        ("Peak bytes of live tensors in a run, MLP 4-8-1", memory),
        ("The straight line through them", growth),
    ):
        text = table.to_string(index=False, float_format="{:,.3f}".format)
        print(f"\n{title}\n{text}")

    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    times.assign(**machine()).to_parquet(out / "time.parquet", index=False)
    memory.assign(**machine()).to_parquet(out / "memory.parquet", index=False)
    if not growth["as expected"].all():
        raise SystemExit("memory does not grow with the steps as it should: see above")


if __name__ == "__main__":
    main()
