"""Schedules of few segments by forward mode: Micaelli & Storkey 2021 (FDS), smaller."""

from collections.abc import Iterator, Sequence
from functools import partial

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import raymeta
from jobs.benchmarks.memory import peak_bytes
from jobs.experiments.reproductions.base import (
    Claim,
    Reproduction,
    Row,
    Scale,
    curves,
    values,
)
from jobs.experiments.reproductions.mnist import images
from raymeta.problem import BilevelProblem

SEGMENTS, STEPS, OUTER, BATCH = 7, 1000, 10, 64


class Segmented:
    """A CNN on MNIST: learning rate, momentum and weight decay, seven segments each.

    Args:
        horizon: T, steps of a run.
        mnist: see `Scale`.
    """

    def __init__(self, horizon: int, mnist: str | None) -> None:
        self.name, self.horizon, self.mnist = "segmented", horizon, mnist
        self.budget = 100.0 * horizon
        shape = (SEGMENTS,)
        self.space = raymeta.Space(
            lr=raymeta.Positive(1e-3, low=1e-4, high=1.0, shape=shape),
            momentum=raymeta.Unit(0.5, low=0.01, high=0.99, shape=shape),
            decay=raymeta.Positive(1e-4, low=1e-6, high=0.1, shape=shape),
        )

    def sample(self, seed: int) -> BilevelProblem:
        """1,000 images for training, 1,000 for validation."""
        x, y = images(self.mnist).train.tensors
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        x = F.avg_pool2d(x.view(-1, 1, 28, 28), 2)
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(288, 10)
        )
        train, val = rows[:1000], rows[1000:2000]

        def spread(segments: Tensor) -> Tensor:
            return segments.repeat_interleave(-(-self.horizon // SEGMENTS))

        return raymeta.module_problem(
            network,
            loss=F.cross_entropy,
            train=TensorDataset(x[train], y[train]),
            val=TensorDataset(x[val], y[val]),
            batch_size=BATCH,
            seed=seed,
            optimizer=lambda h: raymeta.optim.sgd(
                spread(h["lr"]),
                momentum=spread(h["momentum"]),
                weight_decay=spread(h["decay"]),
            ),
        )


def settings(scale: Scale) -> Sequence[str]:
    """Learnt by forward mode; memory by T."""
    return ["memory"] if scale.reduced else ["forward mode", "memory"]


def run(setting: str, seed: int, scale: Scale) -> Iterator[Row]:
    """Validation loss by outer step; or the peak of memory of 20, 40, 80 steps."""
    if setting == "memory":
        for steps in (10, 40):
            task = Segmented(steps, scale.mnist)
            problem, hparams = task.sample(seed), task.space.initial()
            estimator = raymeta.hypergrad.Forward(steps)
            peak = peak_bytes(
                partial(raymeta.hypergradient, problem, hparams, estimator)
            )
            yield Row("peak memory", steps, float(peak))
        return
    task = Segmented(STEPS, scale.mnist)
    estimator = raymeta.hypergrad.Forward(STEPS)
    cost = estimator.cost(task.sample(seed), task.space.initial())
    result = raymeta.optimize(
        task, estimator, budget=(OUTER + 1) * cost, seed=seed, progress=False
    )
    assert result.start_loss is not None
    assert result.outer_loss is not None
    yield Row("outer loss", 0, result.start_loss)
    for i, loss in enumerate(result.frame["outer_loss"], 1):
        yield Row("outer loss", i, float(loss))
    yield Row("best over start", 0, result.outer_loss / result.start_loss)


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Ten outer steps suffice from a poor start; memory does not grow with T."""
    first, last = (values(frame, "memory", "peak memory", t) for t in (10, 40))
    return [
        Claim(
            "validation loss after 10 outer steps over that at the start",
            "converges in 10",
            -float("inf"),
            0.25,
            values(frame, "forward mode", "best over start"),
        ),
        Claim(
            "peak memory, T = 40 over T = 10",
            "1",
            0.95,
            1.05,
            [b / a for a, b in zip(first, last, strict=True)],
        ),
    ]


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Losses by outer step."""
    axes = figure.subplots()
    curves(frame, axes, "outer loss", xlabel="estimate")
    axes.set_yscale("log")


REPRODUCTION = Reproduction(
    name="segmented-schedules",
    title="Schedules of seven segments by forward mode",
    paper="Micaelli & Storkey 2021",
    protocol="Learning rate, momentum and weight decay in seven segments each, T = "
    "1,000 steps (10,000) of a small CNN on 1,000 images of MNIST, from a learning "
    "rate of .001, 10 outer steps by raymeta's own trust region.",
    settings=settings,
    seeds=(0, 1, 2),
    run=run,
    claims=claims,
    draw=draw,
)
