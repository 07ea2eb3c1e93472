"""Graphs and tables: problems of the tuning list."""

import torch
from sklearn.datasets import load_diabetes, load_wine
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from jobs.experiments.tuning.draws import random_of, scaled
from raymeta.data import digits, split
from raymeta.modules import module_problem
from raymeta.optim import adam, adamw, sgd
from raymeta.problem import BilevelProblem
from raymeta.tasks.networks import seeded
from raymeta.types import Hparams


class _GraphNetwork(nn.Module):
    """Two graph convolutions over one graph; nodes are asked for by number."""

    def __init__(self, adjacency: Tensor, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        self.register_buffer("features", features)
        self.first = nn.Linear(features.shape[1], 16)
        self.second = nn.Linear(16, 4)

    def forward(self, nodes: Tensor) -> Tensor:
        hidden = F.relu(self.adjacency @ self.first(self.features))
        return (self.adjacency @ self.second(hidden))[nodes]


def graph(seed: int) -> BilevelProblem:
    """A graph of four communities whose features say little."""
    random, n = random_of(seed, 4), 160
    y = torch.arange(n) % 4
    same = y[:, None] == y[None]
    drawn = torch.rand(n, n, generator=random)
    edges = (drawn < torch.where(same, 0.08, 0.03)).triu(1)
    a = (edges | edges.T).float() + torch.eye(n)
    scale = a.sum(1).rsqrt()
    means = torch.randn(4, 12, generator=random)
    x = 0.5 * means[y] + torch.randn(n, 12, generator=random)
    nodes = torch.randperm(n, generator=random)
    data = [TensorDataset(i, y[i]) for i in (nodes[:50], nodes[50:110])]
    network = seeded(lambda: _GraphNetwork(scale[:, None] * a * scale, x), seed)
    return module_problem(
        network,
        loss=F.cross_entropy,
        train=data[0],
        val=data[1],
        optimizer=lambda h: adam(h["lr"], weight_decay=h["weight_decay"]),
        seed=seed,
    )


def autoencoder(seed: int) -> BilevelProblem:
    """A denoising autoencoder of digits that learns how much noise helps."""
    parts = split(*digits(), fractions=(0.3, 0.2), seed=seed)
    data = [TensorDataset(p.tensors[0], p.tensors[0]) for p in (parts.train, parts.val)]

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 16), nn.SiLU(), nn.Linear(16, 64))

    def augment(inputs, targets, h, noise):
        (x,) = inputs
        return (x + h["noise"] * noise.normal(x.shape, x.dtype),), targets

    return module_problem(
        seeded(build, seed),
        loss=F.mse_loss,
        train=data[0],
        val=data[1],
        augment=augment,
        optimizer=lambda h: adam(
            {"0": h["lr"][0], "2": h["lr"][1]}, weight_decay=h["weight_decay"]
        ),
        batch_size=64,
        seed=seed,
    )


def wine(seed: int) -> BilevelProblem:
    """Weights of three classes, seen unequally often, and the learning rate."""
    inputs, labels = load_wine(return_X_y=True)
    x = scaled(torch.tensor(inputs, dtype=torch.float32))
    y = torch.tensor(labels)
    order = torch.randperm(len(x), generator=random_of(seed))
    rare = torch.cat(
        [order[:60][y[order[:60]] != 2], order[:60][y[order[:60]] == 2][:3]]
    )
    parts = TensorDataset(x[rare], y[rare]), TensorDataset(x[order[60:]], y[order[60:]])

    def loss(out: Tensor, y: Tensor, h: Hparams, index: Tensor) -> Tensor:
        return F.cross_entropy(out, y, weight=h["classes"])

    return module_problem(
        seeded(lambda: nn.Linear(13, 3), seed),
        loss=F.cross_entropy,
        train=parts[0],
        val=parts[1],
        train_loss=loss,
        optimizer=lambda h: sgd(h["lr"], weight_decay=h["weight_decay"]),
        seed=seed,
    )


def diabetes(seed: int) -> BilevelProblem:
    """A tanh network on a small table: settings of Adam by layer."""
    inputs, target = load_diabetes(return_X_y=True)
    x = scaled(torch.tensor(inputs, dtype=torch.float32))
    y = scaled(torch.tensor(target, dtype=torch.float32)[:, None])
    parts = split(x, y, fractions=(0.3, 0.3), seed=seed)

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 1))

    def rule(h: Hparams):
        return adamw(
            {"0": h["lr"][0], "2": h["lr"][1]},
            betas=(h["beta1"], 0.999),
            weight_decay={"0": h["weight_decay"][0], "2": h["weight_decay"][1]},
        )

    return module_problem(
        seeded(build, seed),
        loss=F.mse_loss,
        train=parts.train,
        val=parts.val,
        optimizer=rule,
        batch_size=32,
        seed=seed,
    )
