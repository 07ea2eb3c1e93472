"""What each process of `test_ddp` does; results go to a file of its rank."""

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import distributed
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from raymeta._tree import tree_map
from raymeta.data import share
from raymeta.meta import Episode, Learner, MetaModule, cavia, first_order, imaml, maml
from raymeta.optim import sgd
from raymeta.types import Tensors
from tests.support.learners import CASES, mlp, sinusoids

TASKS, STEPS = 5, 50


def with_unused() -> Learner:
    return maml(
        mlp(),
        loss=F.mse_loss,
        optimizer=sgd(0.1),
        hyperparameters={"unused": torch.ones(3)},
    )


BY_TASK = {
    "implicit": lambda: imaml(mlp(), loss=F.mse_loss, strength=5.0, steps=3),
    "clamped": lambda: cavia(mlp(3), loss=F.mse_loss, context=2, clamp=0.05),
}


class Worker:
    """One of `world` processes, with its share of the tasks."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self.made: dict[tuple[str, str], DistributedDataParallel] = {}

    def own(self, episodes: Episode) -> Episode:
        start, stop = share(TASKS, self.rank, self.world)
        return tree_map(lambda x: x[start:stop], episodes)

    def wrapped(
        self, learner: Learner, engine: str, **options
    ) -> DistributedDataParallel:
        module = MetaModule(learner, engine=engine)
        with torch.no_grad():  # that rank 0's θ goes to all
            for parameter in module.parameters():
                parameter.mul_(1.0 + self.rank)
        return DistributedDataParallel(module, **options)

    def loss(self, ddp: DistributedDataParallel, episodes: Episode):
        """DDP takes the mean of its gradient over ranks, which is that over tasks."""
        return ddp(self.own(episodes)).losses.sum() * self.world / TASKS

    def gradients(self, ddp: DistributedDataParallel) -> Tensors:
        return {k: p.grad.clone() for k, p in ddp.module.theta().items()}

    def case(self, name: str, engine: str) -> DistributedDataParallel:
        """Wrapped once, as tracing takes its time."""
        if (name, engine) not in self.made:
            self.made[name, engine] = self.wrapped(CASES[name].make(), engine)
        ddp = self.made[name, engine]
        ddp.zero_grad()
        return ddp

    def once(self, name: str, engine: str) -> Tensors:
        ddp = self.case(name, engine)
        self.loss(ddp, CASES[name].episodes(TASKS)).backward()
        return self.gradients(ddp)

    def first_order(self, engine: str) -> Tensors:
        ddp = self.wrapped(first_order(CASES["maml"].make()), engine)
        self.loss(ddp, sinusoids(TASKS)).backward()
        return self.gradients(ddp)

    def by_task(self, learner: Learner) -> Tensors:
        """Whose meta-gradients are known for each task by itself."""
        ddp = self.wrapped(learner, "functional")
        self.loss(ddp, sinusoids(TASKS)).backward()
        return self.gradients(ddp)

    def unused(self, engine: str) -> Tensors:
        """Twice, since a reducer that waits for a gradient fails at the second."""
        ddp = self.wrapped(with_unused(), engine, find_unused_parameters=True)
        for _ in range(2):
            ddp.zero_grad()
            self.loss(ddp, sinusoids(TASKS)).backward()
        theta = ddp.module.theta()
        grad = theta["unused"].grad
        assert grad is None or not grad.any()
        return {k: p.grad.clone() for k, p in theta.items() if k != "unused"}

    def two_forwards(self, engine: str) -> Tensors:
        ddp = self.case("maml", engine)
        losses = [self.loss(ddp, sinusoids(TASKS, step)) for step in (0, 1)]
        (losses[0] + 2 * losses[1]).backward()
        return self.gradients(ddp)

    def accumulated(self, engine: str) -> Tensors:
        ddp = self.case("maml", engine)
        for step in (0, 1):
            with ddp.no_sync() if step == 0 else nullcontext():
                (self.loss(ddp, sinusoids(TASKS, step)) * (1 + step)).backward()
        return self.gradients(ddp)

    def trained(self, engine: str, steps: int = STEPS) -> Tensors:
        ddp = self.case("maml", engine)
        outer = torch.optim.Adam(ddp.parameters(), lr=0.01)
        for step in range(steps):
            outer.zero_grad()
            self.loss(ddp, sinusoids(TASKS, step)).backward()
            outer.step()
        return {k: p.detach().clone() for k, p in ddp.module.theta().items()}


def work(rank: int, world: int, folder: str) -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    worker = Worker(rank, world)
    results = {}
    for engine in ("functional", "higher"):
        for name in CASES:
            results[name, engine] = worker.once(name, engine)
        for name in ("first_order", "unused", "two_forwards", "accumulated"):
            results[name, engine] = getattr(worker, name)(engine)
    for name, make in BY_TASK.items():
        results[name, "functional"] = worker.by_task(make())
    results["trained", "functional"] = worker.trained("functional")
    results["trained", "higher"] = worker.trained("higher", 10)
    torch.save(results, Path(folder) / f"rank{rank}.pt")
    distributed.destroy_process_group()
