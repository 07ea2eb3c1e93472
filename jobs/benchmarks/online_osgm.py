"""Gradients to ‖∇f‖ ≤ 1e-4 on the adult sets: OSGM without a grid, beside L-BFGS.

`python -m jobs.benchmarks.online_osgm PATH …` takes files in LIBSVM's format; without
any, made-up ones on which the constants were chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_svmlight_file
from torch import Tensor

from raymeta.online.osgm import OSGM

MOST, TARGET = 1000, 1e-4
CATEGORIES = (5, 8, 16, 7, 14, 6, 5, 2, 5, 5, 5, 40)


def made_up(seed: int, power: float) -> tuple[Tensor, Tensor]:
    """Binarized categories of Zipf's frequencies, labels of a logistic model."""
    rng = np.random.default_rng(seed)
    columns = []
    for k in CATEGORIES:
        odds = 1 / np.arange(1, k + 1) ** power
        columns.append(np.eye(k)[rng.choice(k, 1500, p=odds / odds.sum())])
    x = np.concatenate(columns, 1)
    z = x @ rng.normal(size=x.shape[1])
    y = (rng.random(1500) < 1 / (1 + np.exp(-(z - np.median(z) - 1)))) * 2.0 - 1
    return torch.tensor(x[:, x.sum(0) > 0]), torch.tensor(y)


def smoothed_svm(z: Tensor) -> Tensor:
    """½ Σ max(0, 1 - z)²."""
    return 0.5 * (1 - z).clamp(min=0).square().sum()


def logistic(z: Tensor) -> Tensor:
    """Σ log(1 + exp(-z))."""
    return torch.nn.functional.softplus(-z).sum()


def gradients_needed(
    x: Tensor, y: Tensor, loss: Callable[[Tensor], Tensor], seed: int
) -> str:
    """How many gradients OSGM takes to the target, as text."""
    rows = torch.cat([x, -torch.ones(len(x), 1, dtype=x.dtype)], 1) * y[:, None]
    g = torch.Generator().manual_seed(seed)
    start = torch.randn(rows.shape[1], generator=g, dtype=x.dtype)
    w = torch.nn.Parameter(start / start.norm())
    optimizer = OSGM([w])
    least = float("inf")

    def closure() -> Tensor:
        nonlocal least
        optimizer.zero_grad()
        value = loss(rows @ w)
        value.backward()
        assert w.grad is not None
        least = min(least, float(w.grad.norm()))
        return value

    while optimizer.counts["evaluations"] < MOST:
        optimizer.step(closure)
        if least <= TARGET:
            return str(optimizer.counts["evaluations"])
    return f"> {MOST} (‖∇f‖ {least:.1e})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--features", type=int, default=123)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    sets = {"made-up 1.2": made_up(0, 1.2), "made-up 2.0": made_up(1, 2.0)}
    if given.files:
        sets = {}
        for path in given.files:
            x, y = load_svmlight_file(str(path), n_features=given.features)
            sets[path.name] = torch.tensor(x.toarray()), torch.tensor(y)
    for name, (x, y) in sets.items():
        for loss in (smoothed_svm, logistic):
            found = [gradients_needed(x, y, loss, s) for s in range(given.seeds)]
            print(f"{name:12s} {loss.__name__:14s} {', '.join(found)}", flush=True)
