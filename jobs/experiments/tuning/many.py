"""Many hyperparameters: problems of the tuning list."""

import math

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from jobs.experiments.tuning.draws import random_of, scaled
from raymeta.data import digits, split
from raymeta.modules import module_problem, smoothed_cross_entropy
from raymeta.optim import sgd
from raymeta.problem import BilevelProblem
from raymeta.tasks.networks import seeded


def penalties(seed: int) -> BilevelProblem:
    """A weight decay for each of 60 features, half of which are noise."""
    inputs, labels = load_breast_cancer(return_X_y=True)
    x = scaled(torch.tensor(inputs, dtype=torch.float32))
    x = torch.cat([x, torch.randn(x.shape, generator=random_of(seed, 1))], 1)
    y = torch.tensor(labels, dtype=torch.float32)
    parts = split(x, y, fractions=(0.15, 0.3), seed=seed)
    return module_problem(
        seeded(lambda: nn.Linear(60, 1), seed),
        loss=lambda out, y: F.binary_cross_entropy_with_logits(out[:, 0], y),
        train=parts.train,
        val=parts.val,
        regularizer=lambda w, h: (h["penalties"] * w["weight"][0].square()).sum(),
        optimizer=lambda h: sgd(0.3, momentum=0.9),
        seed=seed,
    )


def spirals(seed: int) -> BilevelProblem:
    """A learning rate for each of 40 steps on two spirals."""
    random = random_of(seed, 2)
    t = torch.rand(400, generator=random).sqrt() * 3 * math.pi
    y = torch.arange(400) % 2
    angle = t + math.pi * y
    x = torch.stack([t * angle.cos(), t * angle.sin()], 1) / 5
    x = x + 0.05 * torch.randn(x.shape, generator=random)

    def build() -> nn.Module:
        layers = nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh()
        return nn.Sequential(*layers, nn.Linear(32, 2))

    return module_problem(
        seeded(build, seed),
        loss=F.cross_entropy,
        train=TensorDataset(x[:200], y[:200]),
        val=TensorDataset(x[200:], y[200:]),
        optimizer=lambda h: sgd(h["lr"], momentum=0.9),
        seed=seed,
    )


def noisy_labels(seed: int) -> BilevelProblem:
    """A weight for each of 300 examples, 40 % of which bear a wrong label."""
    parts = split(*digits(), fractions=(300 / 1797, 0.15), seed=seed)
    inputs, labels = parts.train.tensors
    random = random_of(seed, 3)
    wrong = torch.rand(labels.shape, generator=random) < 0.4
    moved = (labels + torch.randint(1, 10, labels.shape, generator=random)) % 10
    n = len(labels)

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))

    return module_problem(
        seeded(build, seed),
        loss=F.cross_entropy,
        train=TensorDataset(inputs, torch.where(wrong, moved, labels)),
        val=parts.val,
        train_loss=lambda out, y, h, index: smoothed_cross_entropy(
            out, y, weights=h["weights"][:n][index]
        ),
        optimizer=lambda h: sgd(0.3, momentum=0.9),
        seed=seed,
    )
