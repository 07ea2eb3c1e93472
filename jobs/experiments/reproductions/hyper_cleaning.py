"""Data hyper-cleaning on MNIST: Franceschi et al. 2017, section 5.1, smaller."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
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
from raymeta.types import Hparams

STEPS, ITERATIONS, BUDGET, RATE = 100, 60, 1000, 0.3
FINAL_STEPS, NOISY = 400, 1e-3


class Data(NamedTuple):
    """Training images, of which half are mislabelled; validation and test images."""

    train: TensorDataset
    val: TensorDataset
    test: TensorDataset
    wrong: Tensor


def data(seed: int, scale: Scale) -> Data:
    """5,000 / 5,000 / 10,000 of 20,000; labels moved to a different class."""
    sizes = (200, 200, 400) if scale.reduced else (5000, 5000, 10_000)
    x, y = images(scale.mnist).train.tensors
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(x), generator=generator)[: sum(sizes)].split(sizes)
    n = sizes[0]
    wrong = torch.randperm(n, generator=generator) < n // 2
    moved = (y[rows[0]] + torch.randint(1, 10, (n,), generator=generator)) % 10
    labels = torch.where(wrong, moved, y[rows[0]])
    train = TensorDataset(x[rows[0]], labels)
    val, test = (TensorDataset(x[part], y[part]) for part in rows[1:])
    return Data(train, val, test, wrong)


def weighted(train: TensorDataset, val: TensorDataset, scale: float) -> BilevelProblem:
    """Softmax regression by full-batch descent on Σ λ_i ℓ_i over a constant scale."""

    def loss(outputs: Tensor, targets: Tensor, h: Hparams, index: Tensor) -> Tensor:
        each = F.cross_entropy(outputs, targets, reduction="none")
        return (h["weights"][index] * each).sum() / scale

    network = nn.Linear(784, 10)
    for p in network.parameters():
        nn.init.zeros_(p)
    return raymeta.module_problem(
        network,
        loss=F.cross_entropy,
        train=train,
        val=val,
        train_loss=loss,
        optimizer=lambda h: raymeta.optim.sgd(RATE),
    )


def final_accuracy(found: Data, weights: Tensor) -> float:
    """Test accuracy in per cent of a fit to weighted training and validation images."""
    parts = zip(found.train.tensors, found.val.tensors, strict=True)
    everything = TensorDataset(*(torch.cat(pair) for pair in parts))
    problem = weighted(everything, found.val, float(weights.sum()) + len(found.val))
    hparams = {"weights": torch.cat([weights, torch.ones(len(found.val))])}
    state = problem.init(hparams)
    for t in range(FINAL_STEPS):
        state = problem.step(state, hparams, problem.batch(t))
    assert problem.module is not None
    return 100 - error(problem.module(state, hparams), found.test)


def projected(weights: Tensor, budget: float) -> Tensor:
    """The nearest point with 0 ≤ λ ≤ 1 and Σ λ ≤ R: a shift, found by bisection."""
    if weights.clamp(0, 1).sum() <= budget:
        return weights.clamp(0, 1)
    low, high = torch.zeros(()), weights.max()
    for _ in range(60):
        shift = (low + high) / 2
        much = (weights - shift).clamp(0, 1).sum() > budget
        low, high = (shift, high) if much else (low, shift)
    return (weights - high).clamp(0, 1)


def settings(scale: Scale) -> Sequence[str]:
    """Without cleaning, knowing the wrong labels, and cleaned."""
    return ["cleaned"] if scale.reduced else ["baseline", "oracle", "cleaned"]


def run(setting: str, seed: int, scale: Scale) -> Iterator[Row]:
    """Test accuracy of the last fit; on the way, validation loss and F1."""
    found = data(seed, scale)
    n, budget = len(found.train), BUDGET * len(found.train) / 5000
    weights = torch.ones(n)
    if setting == "oracle":
        weights = (~found.wrong).float()
    if setting == "cleaned":
        weights = torch.full((n,), budget / n).requires_grad_()
        adam = torch.optim.Adam([weights], lr=0.01)
        problem = weighted(found.train, found.val, budget)
        estimator = raymeta.hypergrad.Reverse(10 if scale.reduced else STEPS)
        for i in range(2 if scale.reduced else ITERATIONS):
            result = raymeta.hypergradient(
                problem, {"weights": weights.detach().clone()}, estimator
            )
            weights.grad = result.grads["weights"]
            adam.step()
            with torch.no_grad():
                weights.copy_(projected(weights, budget))
            yield Row("validation loss", i, float(result.outer_loss))
            yield Row("F1", i, f1(weights.detach() < NOISY, found.wrong))
        weights = weights.detach()
    yield Row("test accuracy", 0, final_accuracy(found, weights))


def f1(said: Tensor, truth: Tensor) -> float:
    """2 hits / (2 hits + misses + false alarms)."""
    hits, errors = int((said & truth).sum()), int((said ^ truth).sum())
    return 2 * hits / max(1, 2 * hits + errors)


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Table 1 of the paper; intervals of the smaller form."""
    baseline, oracle, cleaned = (
        values(frame, setting, "test accuracy")
        for setting in ("baseline", "oracle", "cleaned")
    )
    gaps = [
        (c - b) / (o - b) for b, o, c in zip(baseline, oracle, cleaned, strict=True)
    ]
    inf = float("inf")
    return [
        Claim("test accuracy %, not cleaned", "87.74", 87.0, 89.0, baseline, False),
        Claim("test accuracy %, oracle", "90.46", 89.3, 91.0, oracle, False),
        Claim(
            "test accuracy %, cleaned, R = 1,000", "90.07", 89.0, inf, cleaned, False
        ),
        Claim("of the gap to the oracle", ".86", 0.5, inf, gaps, False),
        Claim(
            "F1 of λ < .001", ".9137", 0.91, inf, values(frame, "cleaned", "F1"), False
        ),
    ]


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """F1 and validation loss by hyper-iteration."""
    left, right = figure.subplots(1, 2)
    curves(frame, left, "validation loss", xlabel="hyper-iteration")
    curves(frame, right, "F1", xlabel="hyper-iteration")


REPRODUCTION = Reproduction(
    name="hyper-cleaning",
    title="Data hyper-cleaning",
    paper="Franceschi et al. 2017",
    protocol="Softmax regression on 5,000 images of MNIST, half of them mislabelled, "
    "5,000 for validation, 10,000 for tests; R = 1,000. Smaller than published: T = "
    "100 steps of .3 (2,000 of .1), 60 hyper-iterations of Adam(.01) (500 of .005), "
    "last fits of 400 steps.",
    settings=settings,
    seeds=(0, 1, 2),
    run=run,
    claims=claims,
    draw=draw,
)
