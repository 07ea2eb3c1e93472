"""Final loss of methods without a rate to choose, each one run of its defaults.

On the tasks of `jobs.benchmarks.online_lr`, beside Adam that learns its rate from its
own default: `python -m jobs.benchmarks.online_others`, with `pytorch-optimizer`,
`dog-optimizer` and `mechanic-pytorch` installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from importlib import import_module

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

import raymeta
from jobs.benchmarks.online_lr import BATCH, FIXED, HELD_OUT, STEPS, TASKS, Stream

#: Gives what to do after each step, and before the held-out loss.
Made = tuple[torch.optim.Optimizer, Callable[[], None], Callable[[], None]]


def _nothing() -> None:
    pass


def adam(net: nn.Module, lr: float = 1e-3) -> Made:
    """Plain Adam."""
    return torch.optim.Adam(net.parameters(), lr=lr), _nothing, _nothing


def learnt(net: nn.Module) -> Made:
    """Adam that learns its rate."""
    return raymeta.online.Adam(net.parameters()), _nothing, _nothing


def cosine(net: nn.Module) -> Made:
    """Plain Adam with a warm-up over a tenth of the steps, then a cosine to 0."""
    optimizer = torch.optim.Adam(net.parameters())
    first = STEPS // 10
    parts = [
        LinearLR(optimizer, 1 / first, total_iters=first),
        CosineAnnealingLR(optimizer, STEPS - first),
    ]
    scheduler = SequentialLR(optimizer, parts, [first])
    return optimizer, scheduler.step, _nothing


def prodigy(net: nn.Module) -> Made:
    """Prodigy."""
    module = import_module("pytorch_optimizer")
    return module.Prodigy(net.parameters()), _nothing, _nothing


def schedule_free(net: nn.Module) -> Made:
    """Schedule-Free AdamW; the averaged weights are what is looked at."""
    optimizer = import_module("pytorch_optimizer").ScheduleFreeAdamW(net.parameters())
    optimizer.train()
    return optimizer, _nothing, optimizer.eval


def dog(net: nn.Module) -> Made:
    """DoG with its averaged weights, which its authors look at."""
    module = import_module("dog")
    optimizer = module.DoG(net.parameters())
    averager = module.PolynomialDecayAverager(net)

    def look() -> None:
        net.load_state_dict(averager.averaged_model.state_dict())

    return optimizer, averager.step, look


def mechanic(net: nn.Module) -> Made:
    """Mechanic around Adam."""
    tuned = import_module("mechanic_pytorch").mechanize(torch.optim.Adam)
    return tuned(net.parameters(), lr=1.0), _nothing, _nothing


METHODS: dict[str, Callable[[nn.Module], Made]] = {
    "learnt": learnt,
    "adam": adam,
    "cosine": cosine,
    "prodigy": prodigy,
    "schedule-free": schedule_free,
    "dog": dog,
    "mechanic": mechanic,
}


def final_loss(task: Stream, make: Callable[[nn.Module], Made], seed: int) -> float:
    """Held-out loss after `STEPS` steps."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    net = task.network()
    x, y = task.draw(HELD_OUT, torch.Generator().manual_seed(10_000 + seed))
    optimizer, after, look = make(net)

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        task.loss(net(inputs), targets).backward()
        optimizer.step()
        after()

    for _ in range(STEPS):
        step(*task.draw(BATCH, g))
    look()
    with torch.no_grad():
        return float(task.loss(net(x), y))


def lines(seeds: range) -> Iterator[str]:
    """A line per task: means over seeds as multiples of the best fixed rate's."""
    for name, make in TASKS["reported"].items():
        task = make()

        def mean(method: Callable[[nn.Module], Made], task: Stream = task) -> float:
            return float(np.mean([final_loss(task, method, s) for s in seeds]))

        best = min(mean(lambda net, lr=lr: adam(net, lr)) for lr in FIXED)  # type: ignore[misc]
        found = {name: mean(method) / best for name, method in METHODS.items()}
        shown = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
        yield f"{name:8s} {shown}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    for line in lines(range(parser.parse_args().seeds)):
        print(line, flush=True)
