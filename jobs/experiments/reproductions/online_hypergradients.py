"""SGD-HD, SGDN-HD and Adam-HD on MNIST: Baydin et al. 2018, section 5."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
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
from jobs.experiments.reproductions.mnist import images, normalized
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams, Tensors

BATCH, DECAY = 128, 1e-4
#: Rule, α_0 and the hyper learning rate β; None: α stays as it is.
RULES: dict[str, tuple[Callable[..., Any], float, float | None]] = {
    "sgd": (raymeta.optim.sgd, 1e-3, None),
    "sgd-hd": (raymeta.optim.sgd, 1e-3, 1e-3),
    "sgdn": (partial(raymeta.optim.sgd, momentum=0.9, nesterov=True), 1e-3, None),
    "sgdn-hd": (partial(raymeta.optim.sgd, momentum=0.9, nesterov=True), 1e-3, 1e-3),
    "adam": (raymeta.optim.adam, 1e-3, None),
    "adam-hd": (raymeta.optim.adam, 1e-3, 1e-7),
}
ALPHAS, BETAS = (1e-5, 1e-4, 1e-3, 1e-2), (1e-4, 1e-3)


def settings(scale: Scale) -> Sequence[str]:
    """Logistic regression by every rule; SGD over α_0 × β for an epoch; the MLP."""
    if scale.reduced:
        return ["logistic sgd-hd"]
    grid = [f"grid {alpha:g} {beta:g}" for alpha in ALPHAS for beta in (0.0, *BETAS)]
    return [
        *(f"logistic {rule}" for rule in RULES),
        *grid,
        "mlp sgd",
        "mlp sgd-hd",
    ]


def penalty(params: Tensors, hparams: Hparams) -> Tensor:
    """Weight decay as a part of the loss: the paper's hypergradient includes it."""
    return 0.5 * DECAY * torch.stack([p.square().sum() for p in params.values()]).sum()


def problem_of(
    network: nn.Module, rule: Any, scale: Scale, seed: int
) -> BilevelProblem:
    """MNIST, as the authors' code has it; validation is on the test images."""
    train, val = (normalized(part, 0.1307, 0.3081) for part in images(scale.mnist))
    return raymeta.module_problem(
        network,
        loss=F.cross_entropy,
        train=train,
        val=val,
        batch_size=BATCH,
        regularizer=penalty,
        optimizer=lambda h: rule(h["lr"]),
        seed=seed,
    )


def run(setting: str, seed: int, scale: Scale) -> Iterator[Row]:
    """Validation loss after each epoch, and α at each step of the first epochs."""
    torch.manual_seed(seed)
    kind, *which = setting.split()
    rule, alpha, beta = RULES["sgd" if kind == "grid" else which[0]]
    if kind == "grid":
        alpha, beta = float(which[0]), float(which[1]) or None
    network = (
        nn.Sequential(
            nn.Linear(784, 1000), nn.ReLU(), nn.Linear(1000, 1000), nn.ReLU(),
            nn.Linear(1000, 10),
        )
        if kind == "mlp"
        else nn.Linear(784, 10)
    )  # fmt: skip
    epochs = 1 if kind == "grid" or scale.reduced else 10
    problem = problem_of(network, rule, scale, seed)
    per_epoch = len(images(scale.mnist).train) // BATCH
    steps = epochs * per_epoch
    for t, (state, lr) in enumerate(trained(problem, alpha, beta, steps), 1):
        if beta is not None and (t <= 100 or t % 50 == 1):
            yield Row("learning rate", t, lr)
        if t % per_epoch == 0:
            loss = problem.outer_loss(state, {"lr": torch.tensor(lr)})
            yield Row("validation loss", t // per_epoch, float(loss))


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Table of the authors' CSV files at epoch 10; the peak of α."""
    published = {
        "logistic sgd": 0.37375,
        "logistic sgd-hd": 0.28778,
        "logistic sgdn": 0.28455,
        "logistic sgdn-hd": 0.27186,
        "logistic adam": 0.27187,
        "logistic adam-hd": 0.27233,
        "mlp sgd": 0.40741,
        "mlp sgd-hd": 0.24049,
    }
    found = [
        Claim(
            f"validation loss at epoch 10, {setting}",
            f"{value:.5f}",
            value - (0.02 if setting.startswith("mlp") else 0.005),
            value + (0.02 if setting.startswith("mlp") else 0.005),
            values(frame, setting, "validation loss", 10),
        )
        for setting, value in published.items()
    ]
    alpha = frame[(frame["setting"] == "logistic sgd-hd")]
    alpha = alpha[alpha["metric"] == "learning rate"]
    peaks = alpha.groupby("seed")["value"].max().tolist()
    found.append(Claim("peak of α, logistic sgd-hd", ".04706", 0.044, 0.050, peaks))
    return [*found, *_grid(frame)]


def _grid(frame: pd.DataFrame) -> Iterable[Claim]:
    """How often learning α helps, over α_0 × β."""
    helped: list[float] = []
    for alpha in ALPHAS:
        plain = values(frame, f"grid {alpha:g} 0", "validation loss")
        for beta in BETAS:
            learnt = values(frame, f"grid {alpha:g} {beta:g}", "validation loss")
            helped += [float(a < b) for a, b in zip(learnt, plain, strict=True)]
    yield Claim(
        "share of α₀ × β at which SGD-HD ends an epoch below SGD",
        "in most of the grid",
        0.75,
        1.0,
        helped,
        lower_is_better=False,
    )


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Validation losses by epoch, and α."""
    left, right = figure.subplots(1, 2)
    rows = frame[frame["setting"].str.startswith("logistic")]
    curves(rows, left, "validation loss", xlabel="epoch")
    curves(rows, right, "learning rate")
    right.set_xscale("log")


REPRODUCTION = Reproduction(
    name="online-hypergradients",
    title="Online learning rates: SGD-HD, SGDN-HD, Adam-HD",
    paper="Baydin et al. 2018",
    protocol="MNIST, batch 128, weight decay 1e-4, α₀ = 1e-3, β = 1e-3 (1e-7 for "
    "Adam), 10 epochs; the grid over α₀ × β is of one epoch of logistic regression; "
    "the 1000-1000 MLP is trained by SGD alone.",
    settings=settings,
    seeds=(0, 1, 2),
    run=run,
    claims=claims,
    draw=draw,
)
