"""Implicit differentiation with a hyperparameter per weight: Lorraine et al. 2020."""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import raymeta
from jobs.experiments.reproductions.base import (
    Claim,
    Reproduction,
    Row,
    Scale,
    curves,
    values,
)
from jobs.experiments.reproductions.mnist import error, images
from raymeta.problem import BilevelProblem

IMAGES, STEPS, LONG, ITERATIONS, RATE = 50, 200, 2000, 100, 0.02
TERMS = (1, 5, 20, 100, 500)


def data(seed: int, scale: Scale) -> tuple[TensorDataset, TensorDataset]:
    """50 images for training, 50 for validation."""
    x, y = images(scale.mnist).train.tensors
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, val = rows[:IMAGES], rows[IMAGES : 2 * IMAGES]
    return TensorDataset(x[train], y[train]), TensorDataset(x[val], y[val])


def problem_of(train: TensorDataset, val: TensorDataset) -> BilevelProblem:
    """Softmax regression with a weight decay for each weight."""
    network = nn.Linear(784, 10)
    nn.init.zeros_(network.weight)
    return raymeta.module_problem(
        network,
        loss=F.cross_entropy,
        train=train,
        val=val,
        regularizer=lambda w, h: 0.5 * (h["log_decay"].exp() * w["weight"] ** 2).sum(),
        optimizer=lambda h: raymeta.optim.sgd(RATE, momentum=0.9),
    )


def settings(scale: Scale) -> Sequence[str]:
    """Errors of approximate inverses; a validation set that is overfitted."""
    return ["errors"] if scale.reduced else ["errors", "overfitting"]


def run(setting: str, seed: int, scale: Scale) -> Iterator[Row]:
    """See the two settings."""
    train, val = data(seed, scale)
    problem = problem_of(train, val)
    # The series must converge in its terms; a validation set is overfitted by weights
    # that are nearly free.
    start = -1.0 if setting == "errors" else -4.0
    hparams = {"log_decay": torch.full((10, 784), start)}
    solvers = raymeta.hypergrad
    if setting == "errors":
        steps, terms = (100, TERMS[:2]) if scale.reduced else (LONG, TERMS)
        exact = solvers.Implicit(steps, solver=solvers.ConjugateGradient(500))
        g = raymeta.hypergradient(problem, hparams, exact).grads["log_decay"].flatten()
        for count in terms:
            series = solvers.Neumann(count, lr=RATE, tolerance=1.0)
            cut = solvers.Implicit(steps, solver=series)
            approximate = raymeta.hypergradient(problem, hparams, cut).grads
            flat = approximate["log_decay"].flatten()
            cosine = F.cosine_similarity(flat, g, dim=0)
            yield Row("cosine", count, float(cosine))
        return
    estimator = solvers.Implicit(
        STEPS, solver=solvers.Neumann(20, lr=RATE, tolerance=1.0)
    )
    leaf = hparams["log_decay"].clone().requires_grad_()
    adam = torch.optim.Adam([leaf], lr=0.3)
    for i in range(ITERATIONS):
        at = {"log_decay": leaf.detach().clone()}
        found = raymeta.hypergradient(problem, at, estimator)
        yield Row("validation loss", i, float(found.outer_loss))
        leaf.grad = found.grads["log_decay"]
        adam.step()
        with torch.no_grad():  # a minimum that so many steps, and the series, can reach
            leaf.clamp_(-12.0, 2.0)
    state = problem.init(at)
    for t in range(STEPS):
        state = problem.step(state, at, problem.batch(t))
    assert problem.module is not None
    yield Row("validation error", 0, error(problem.module(state, at), val))


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Figures 3 and 4: approximate inverses; a validation set overfitted."""
    inf = float("inf")
    first, some, many = (values(frame, "errors", "cosine", n) for n in (1, 20, 500))
    return [
        Claim(
            "cosine with the exact inverse Hessian's, 20 terms minus 1 term",
            "more terms are nearer",
            0.0,
            2.0,
            [b - a for a, b in zip(first, some, strict=True)],
            False,
        ),
        Claim(
            "cosine of 500 Neumann terms",
            "near 1",
            0.99,
            1.0001,
            many,
            False,
            "biases have no decay: their part of the series converges slowly",
        ),
        Claim(
            "validation error %, 50 images, a weight decay per weight",
            "0: it can be overfitted",
            -inf,
            2.0,
            values(frame, "overfitting", "validation error"),
        ),
    ]


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Cosines by terms; validation loss by hyper-step."""
    left, right = figure.subplots(1, 2)
    curves(frame, left, "cosine", xlabel="terms of the series")
    left.set_xscale("log")
    curves(frame, right, "validation loss", xlabel="hyper-step")
    right.set_yscale("log")


REPRODUCTION = Reproduction(
    name="implicit",
    title="Implicit differentiation with a hyperparameter per weight",
    paper="Lorraine, Vicol & Duvenaud 2020",
    protocol="Softmax regression on 50 images of MNIST, 50 for validation, a weight "
    "decay for each of 7,840 weights: the mechanism, not the paper's scale.",
    settings=settings,
    seeds=(0, 1, 2),
    run=run,
    claims=claims,
    draw=draw,
)
