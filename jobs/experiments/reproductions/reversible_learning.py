"""Learned schedules, a learned training set, bits per step: Maclaurin et al. 2015."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from math import log, log2

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
from jobs.experiments.reproductions.mnist import images
from raymeta.optim import Optimizer
from raymeta.problem import BilevelProblem
from raymeta.types import Batch, Hparams, State, Tensors

STEPS, BATCH, META_STEP = 100, 200, 0.04
SIZES = (784, 50, 50, 50, 10)
MOMENTA = (0.9, 0.98)


def settings(scale: Scale) -> Sequence[str]:
    """The three experiments of sections 3.1 and 3.3, and of 2.2."""
    return ["schedules"] if scale.reduced else ["schedules", "training set", "bits"]


def run(setting: str, seed: int, scale: Scale) -> Iterator[Row]:
    """See each of the three."""
    experiment = {
        "schedules": schedules,
        "training set": training_set,
        "bits": bits,
    }[setting]
    return experiment(seed, scale)


def schedules(seed: int, scale: Scale) -> Iterator[Row]:
    """Training loss after 100 steps, by meta-iteration.

    λ has for each of eight tensors log α_t, logit β_t, and the log of its first scale.
    """
    names = [f"{k}.{kind}" for k in range(4) for kind in ("weight", "bias")]
    x, y = images(scale.mnist).train.tensors
    x, y = x[:10_000] - x[:10_000].mean(0), y[:10_000]
    steps, iterations = (10, 2) if scale.reduced else (STEPS, 50)
    hparams = {
        "log_alpha": torch.full((steps, 8), -1.0),
        "logit_beta": torch.zeros(steps, 8),  # β = .5
        "log_scale": torch.full((8,), -3.0),
    }
    adam = DraftAdam(META_STEP)
    for i in range(iterations + 1):
        problem = scheduled(x, y, names, seed=1000 * seed + i)
        found = raymeta.hypergradient(
            problem, hparams, raymeta.hypergrad.Reverse(steps)
        )
        yield Row("training loss", i, float(found.outer_loss))
        hparams = adam.step(hparams, found.grads)


def scheduled(x: Tensor, y: Tensor, names: list[str], seed: int) -> BilevelProblem:
    """A run of the tanh network under λ; batches and first weights are of the seed."""
    shapes = [s for i, o in pairwise(SIZES) for s in ((i, o), (o,))]
    generator = torch.Generator().manual_seed(seed)
    first = [torch.randn(shape, generator=generator) for shape in shapes]

    def output(params: Tensors, inputs: Tensor) -> Tensor:
        for k in range(4):
            inputs = inputs @ params[f"{k}.weight"] + params[f"{k}.bias"]
            inputs = inputs.tanh() if k < 3 else inputs
        return inputs

    def batch(t: int) -> Batch:
        drawn = torch.Generator().manual_seed(seed * STEPS + t)
        rows = torch.randint(len(x), (BATCH,), generator=drawn)
        return Batch(torch.tensor(t), (x[rows], y[rows]))

    return raymeta.descent(
        init_params=lambda h: {
            name: value * h["log_scale"][k].exp()
            for k, (name, value) in enumerate(zip(names, first, strict=True))
        },
        inner_loss=lambda w, h, b: F.cross_entropy(output(w, b.data[0]), b.data[1]),
        outer_loss=lambda w, h: F.cross_entropy(output(w, x), y),
        optimizer=lambda h: velocity_sgd(h["log_alpha"], h["logit_beta"], names),
        batch=batch,
    )


def velocity_sgd(log_alpha: Tensor, logit_beta: Tensor, names: list[str]) -> Optimizer:
    """Algorithm 1, as its code takes v: v <- β v - (1 - β) g, w <- w + α v."""

    def update(
        grads: Tensors, memory: State, params: Tensors, t: Tensor
    ) -> tuple[Tensors, State]:
        moved, velocities = {}, {}
        for k, name in enumerate(names):
            beta = logit_beta[:, k].index_select(0, t.reshape(1)).sigmoid()
            alpha = log_alpha[:, k].index_select(0, t.reshape(1)).exp()
            velocities[name] = beta * memory[name] - (1 - beta) * grads[name]
            moved[name] = params[name] + alpha * velocities[name]
        return moved, velocities

    def zeros(params: Tensors) -> State:
        return {name: torch.zeros_like(w) for name, w in params.items()}

    return Optimizer(zeros, update)


class DraftAdam:
    """Adam as an early draft had it, and the authors' code has it."""

    def __init__(self, rate: float) -> None:
        self.rate, self.i = rate, 0
        self.b1, self.b2, self.eps, self.decay = 0.1, 0.01, 1e-4, 1e-4
        self.m: Tensors = {}
        self.v: Tensors = {}

    def step(self, hparams: Hparams, grads: Tensors) -> Hparams:
        """λ after one more step."""
        b1t = 1 - (1 - self.b1) * self.decay**self.i
        self.i += 1
        moved = {}
        for name, g in grads.items():
            m, v = (
                memory.get(name, torch.zeros_like(g)) for memory in (self.m, self.v)
            )
            self.m[name] = b1t * g + (1 - b1t) * m
            self.v[name] = self.b2 * g.square() + (1 - self.b2) * v
            mean = self.m[name] / (1 - (1 - self.b1) ** self.i)
            square = self.v[name] / (1 - (1 - self.b2) ** self.i)
            moved[name] = hparams[name] - self.rate * mean / (square.sqrt() + self.eps)
        return moved


def training_set(seed: int, scale: Scale) -> Iterator[Row]:
    """Losses by iteration of ten images that logistic regression learns from."""
    train, test = images(scale.mnist)
    x, y = (part[:10_000] for part in train.tensors)
    mean = x.mean(0)
    problem = taught_by_images(x - mean, y)
    tested = taught_by_images(test.tensors[0] - mean, test.tensors[1])
    generator = torch.Generator().manual_seed(seed)
    hparams = {"images": 0.01 * torch.randn(10, 784, generator=generator)}
    for i in range(41):
        found = raymeta.hypergradient(problem, hparams, raymeta.hypergrad.Reverse(20))
        yield Row("validation loss", i, float(found.outer_loss))
        if i == 40:
            last = raymeta.hypergrad.Truncated(20, window=1)
            loss = raymeta.hypergradient(tested, hparams, last).outer_loss
            yield Row("test loss", i, float(loss))
        hparams = {"images": hparams["images"] - found.grads["images"]}


def taught_by_images(x: Tensor, y: Tensor) -> BilevelProblem:
    """Logistic regression, trained on λ alone, judged by x and y."""
    labels = torch.arange(10)

    def loss(w: Tensors, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(inputs @ w["weight"] + w["bias"], targets)

    def penalized(w: Tensors, h: Hparams, batch: Batch) -> Tensor:
        squares = w["weight"].square().sum() + w["bias"].square().sum()
        return loss(w, h["images"], labels) + 0.01 * squares

    return raymeta.descent(
        init_params=lambda h: {"weight": torch.zeros(784, 10), "bias": torch.zeros(10)},
        inner_loss=penalized,
        outer_loss=lambda w, h: loss(w, x, y),
        optimizer=lambda h: velocity_sgd(
            torch.zeros(20, 2), torch.full((20, 2), log(9.0)), ["weight", "bias"]
        ),
    )


def heavy_ball(momentum: float, h: Hparams) -> Optimizer:
    """SGD with the learning rate of λ."""
    return raymeta.optim.sgd(h["lr"], momentum=momentum)


def bits(seed: int, scale: Scale) -> Iterator[Row]:
    """Bits per parameter and step that an exactly reversible run keeps.

    Runs are so long that a parameter keeps 2,400: the first 62 are in its own word.
    """
    torch.manual_seed(seed)
    data = TensorDataset(*(p[:500] for p in images(scale.mnist).train.tensors))
    for momentum in MOMENTA:
        problem = raymeta.module_problem(
            nn.Linear(784, 10),
            loss=F.cross_entropy,
            train=data,
            val=data,
            batch_size=20,
            optimizer=partial(heavy_ball, momentum),
            seed=seed,
        )
        steps = 20 if scale.reduced else round(2400 / log2(1 / momentum))
        estimator = raymeta.hypergrad.Reversible(steps)
        hparams = {"lr": torch.tensor(0.01)}
        rollout = estimator.init(problem, hparams)
        _, rollout = estimator.estimate(problem, hparams, rollout)
        yield Row("bits", momentum, rollout.carry.bits)


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Figures 2, 5 and 6, and section 2.2."""
    found = [
        Claim(
            f"training loss after meta-iteration {i}",
            published,
            -float("inf"),
            limit,
            values(frame, "schedules", "training loss", i),
        )
        for i, published, limit in (
            (10, ".2561", 0.30),
            (20, ".2109", 0.24),
            (50, "≈ .12", 0.19),
        )
    ]
    found += [
        Claim(
            "validation loss, taught by ten images",
            "≈ .43",
            0.41,
            0.45,
            values(frame, "training set", "validation loss", 40),
        ),
        Claim(
            "test loss, taught by ten images",
            "≈ .505",
            0.48,
            0.53,
            values(frame, "training set", "test loss", 40),
        ),
    ]
    for momentum in MOMENTA:
        bound = log2(1 / momentum)
        found.append(
            Claim(
                f"bits per parameter and step, momentum {momentum:g}",
                f"{bound:.3f} = log₂ 1/β",
                0.97 * bound,
                1.03 * bound,
                values(frame, "bits", "bits", momentum),
            )
        )
    return found


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Losses by meta-iteration."""
    left, right = figure.subplots(1, 2)
    curves(frame, left, "training loss", ["schedules"], xlabel="meta-iteration")
    curves(frame, right, "validation loss", ["training set"], xlabel="meta-iteration")


REPRODUCTION = Reproduction(
    name="reversible-learning",
    title="Learned schedules, a learned training set, bits per step",
    paper="Maclaurin, Duvenaud & Adams 2015",
    protocol="First 10,000 images of MNIST. Schedules: 784-50-50-50-10 tanh, batch "
    "200, 100 steps, 1,608 hyperparameters, 50 meta-iterations of .04 by the draft of "
    "Adam that the authors' code has. Training set: ten images, T = 20, meta-SGD of "
    "step 1, 40 meta-iterations.",
    settings=settings,
    seeds=(0, 1, 2),
    run=run,
    claims=claims,
    draw=draw,
)
