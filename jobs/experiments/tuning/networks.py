"""Images and text: problems of the tuning list."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from jobs.experiments.tuning.draws import random_of
from raymeta.data import digits, split
from raymeta.data.mnist import mnist
from raymeta.modules import module_problem, smoothed_cross_entropy
from raymeta.optim import adamw, sgd
from raymeta.problem import BilevelProblem
from raymeta.tasks.networks import seeded


def relu_cnn(seed: int) -> BilevelProblem:
    """A ReLU CNN with batch norm on images of MNIST at half their size."""
    images, labels = mnist()
    images = F.avg_pool2d(images.float().view(-1, 1, 28, 28), 2)
    images = (images - images.mean()) / images.std()
    order = torch.randperm(len(images), generator=random_of(seed))
    parts = [TensorDataset(images[i], labels[i]) for i in (order[:600], order[600:900])]

    def build() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(64, 10)),
        )

    return module_problem(
        seeded(build, seed),
        loss=F.cross_entropy,
        train=parts[0],
        val=parts[1],
        optimizer=lambda h: sgd(
            h["lr"], momentum=h["momentum"], weight_decay=h["weight_decay"]
        ),
        batch_size=64,
        seed=seed,
    )


def relu_mlp(seed: int) -> BilevelProblem:
    """A ReLU network on few digits, with a learned strength of label smoothing."""
    parts = split(*digits(), fractions=(0.25, 0.2), seed=seed)

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    return module_problem(
        seeded(build, seed),
        loss=F.cross_entropy,
        train=parts.train,
        val=parts.val,
        train_loss=lambda out, y, h, index: smoothed_cross_entropy(
            out, y, smoothing=h["smoothing"]
        ),
        optimizer=lambda h: sgd(h["lr"], momentum=h["momentum"]),
        batch_size=64,
        seed=seed,
    )


class _Transformer(nn.Module):
    """One block of attention over made sequences of 12 symbols out of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 16)
        self.place = nn.Parameter(torch.randn(12, 16) / 4)
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norms = nn.ModuleList([nn.LayerNorm(16), nn.LayerNorm(16)])
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.out = nn.Linear(16, 8)
        mask = torch.ones(12, 12, dtype=torch.bool).triu(1)
        self.register_buffer("mask", mask)

    def forward(self, symbols: Tensor) -> Tensor:
        x = self.embed(symbols) + self.place
        y = self.norms[0](x)
        x = x + self.attend(y, y, y, attn_mask=self.mask, need_weights=False)[0]
        x = x + self.mlp(self.norms[1](x))
        return self.out(x).transpose(1, 2)


def transformer(seed: int) -> BilevelProblem:
    """Sequences whose next symbol is the sum of two before it, sometimes another."""
    random = random_of(seed, 5)
    rows = torch.randint(8, (400, 13), generator=random)
    for i in range(3, 13):
        rows[:, i] = (rows[:, i - 1] + rows[:, i - 3]) % 8
    noisy = torch.rand(rows.shape, generator=random) < 0.05
    rows = torch.where(noisy, torch.randint(8, rows.shape, generator=random), rows)
    data = [TensorDataset(r[:, :-1], r[:, 1:]) for r in (rows[:300], rows[300:])]
    return module_problem(
        seeded(_Transformer, seed),
        loss=F.cross_entropy,
        train=data[0],
        val=data[1],
        optimizer=lambda h: adamw(
            h["lr"],
            betas=(h["beta1"], h["beta2"]),
            weight_decay=h["weight_decay"],
        ),
        batch_size=32,
        seed=seed,
    )
