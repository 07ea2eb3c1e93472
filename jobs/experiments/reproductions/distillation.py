"""Distillation into ten images, fixed initialization: Wang et al. 2018, section 4.1."""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

import raymeta
from jobs.experiments.reproductions.base import (
    Claim,
    Reproduction,
    Row,
    Scale,
    curves,
    values,
)
from jobs.experiments.reproductions.mnist import images
from raymeta.data import Episode, Examples

STEPS, BATCH = 1000, 1024


def lenet() -> nn.Module:
    """LeNet as the authors' code has it."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, 10),
    )  # fmt: skip


def settings(scale: Scale) -> Sequence[str]:
    """One."""
    return ["ten images"]


def run(setting: str, seed: int, scale: Scale) -> Iterator[Row]:
    """Test accuracy of the network, trained on the ten images alone."""
    torch.manual_seed(seed)
    train, test = (
        ((part.tensors[0].view(-1, 1, 28, 28) - 0.1307) / 0.3081, part.tensors[1])
        for part in images(scale.mnist)
    )
    learner = raymeta.meta.distillation(
        lenet(),
        loss=F.cross_entropy,
        images=torch.randn(1, 10, 1, 28, 28),
        labels=torch.arange(10),
        lr=0.02,
        epochs=3,
    )
    module = raymeta.meta.MetaModule(learner)
    adam = torch.optim.Adam(module.parameters(), lr=0.01)
    steps = 3 if scale.reduced else STEPS
    halving = torch.optim.lr_scheduler.StepLR(adam, max(1, steps // 10), 0.5**0.5)
    generator = torch.Generator().manual_seed(seed)

    def accuracy() -> float:
        with torch.no_grad():
            found = module(task_of(test[0][:10_000], test[1][:10_000]))
        return 100 * float(found.metrics["accuracy"].mean())

    for step in range(steps):
        if step % max(1, steps // 20) == 0:
            yield Row("test accuracy", step, accuracy())
        rows = torch.randint(len(train[0]), (BATCH,), generator=generator)
        adam.zero_grad()
        module(task_of(train[0][rows], train[1][rows])).loss.backward()
        adam.step()
        halving.step()
    yield Row("test accuracy", steps, accuracy())


def task_of(x: torch.Tensor, y: torch.Tensor) -> Episode:
    """One task whose query are real images; it begins at the module's own weights."""
    ones = torch.ones(1, len(x))
    return Episode((), Examples(x[None], y[None], ones))


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Table 1 and Figure 2a."""
    return [
        Claim(
            "test accuracy % before",
            "12.9",
            5.0,
            20.0,
            values(frame, "ten images", "test accuracy", 0),
            False,
        ),
        Claim(
            "test accuracy % of one network taught by ten images",
            "93.76",
            88.0,
            96.0,
            values(frame, "ten images", "test accuracy", STEPS),
            False,
        ),
    ]


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Accuracy by outer step."""
    curves(frame, figure.subplots(), "test accuracy", xlabel="outer step")


REPRODUCTION = Reproduction(
    name="distillation",
    title="Dataset distillation",
    paper="Wang et al. 2018",
    protocol="MNIST, LeNet at a fixed initialization, ten images, one step of "
    "distillation three times over, Adam(.01) that is halved, batch 1,024, as "
    "published; 1,000 outer steps rather than 23,000.",
    settings=settings,
    seeds=(0, 1, 2),
    run=run,
    claims=claims,
    draw=draw,
)
