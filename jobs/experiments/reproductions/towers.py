"""Towers of hyper-optimizers on MNIST: Chandra et al. 2022, section 4.1."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

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
from jobs.experiments.reproductions.learning_rates import trained
from jobs.experiments.reproductions.mnist import error, images

BATCH = 256
#: Rule, α_0, and the hyper-optimizer's rate; None: α stays as it is.
RULES: dict[str, tuple[Callable[..., Any], float, float | None]] = {
    "SGD": (raymeta.optim.sgd, 0.01, None),
    "SGD / SGD": (raymeta.optim.sgd, 0.01, 0.01),
    "Adam": (raymeta.optim.adam, 0.001, None),
    "Adam-α / SGD": (raymeta.optim.adam, 0.001, 1e-5),
}


def settings(scale: Scale) -> Sequence[str]:
    """A rule alone, and under SGD."""
    names = ["SGD / SGD"] if scale.reduced else list(RULES)
    return [name.replace("/", "over") for name in names]


def run(setting: str, seed: int, scale: Scale) -> Iterator[Row]:
    """Test error after each epoch, in per cent; the learning rate."""
    torch.manual_seed(seed)
    rule, alpha, kappa = RULES[setting.replace("over", "/")]
    train, test = images(scale.mnist)
    network = nn.Sequential(
        nn.Linear(784, 128), nn.Tanh(), nn.Linear(128, 10), nn.Tanh()
    )
    problem = raymeta.module_problem(
        network,
        loss=F.cross_entropy,  # log-softmax of tanh outputs, and NLL
        train=train,
        val=test,
        batch_size=BATCH,
        optimizer=lambda h: rule(h["lr"]),
        seed=seed,
    )
    assert problem.module is not None
    per_epoch = len(train) // BATCH
    steps = per_epoch * (1 if scale.reduced else 30)
    for t, (state, lr) in enumerate(trained(problem, alpha, kappa, steps), 1):
        if t % per_epoch:
            continue
        tested = problem.module(state, {"lr": torch.tensor(lr)})
        yield Row("test error", t // per_epoch, error(tested, test))
        yield Row("learning rate", t // per_epoch, lr)


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Table 1 of the paper, test error after 30 epochs."""
    return [
        Claim(
            "test error %, SGD(.01)",
            "8.99 ± .05",
            8.7,
            9.3,
            values(frame, "SGD", "test error", 30),
        ),
        Claim(
            "test error %, SGD/SGD(.01)",
            "4.81 ± .10",
            4.4,
            5.2,
            values(frame, "SGD over SGD", "test error", 30),
        ),
        Claim(
            "test error %, Adam-α/SGD(1e-5)",
            "at most 2.7",
            -float("inf"),
            2.7,
            values(frame, "Adam-α over SGD", "test error", 30),
        ),
    ]


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Test errors and learning rates by epoch."""
    left, right = figure.subplots(1, 2)
    curves(frame, left, "test error", xlabel="epoch")
    curves(frame, right, "learning rate", xlabel="epoch")
    right.set_yscale("log")


REPRODUCTION = Reproduction(
    name="towers",
    title="Towers of hyper-optimizers",
    paper="Chandra et al. 2022",
    protocol="MNIST without normalization, 784-128-10 with tanh on both layers, batch "
    "256, 30 epochs, as published.",
    settings=settings,
    seeds=(0, 1, 2),
    run=run,
    claims=claims,
    draw=draw,
)
