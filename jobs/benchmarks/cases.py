"""What is trained in the benchmark: digits by three networks, and a tiny problem."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raymeta import BilevelProblem, Tensors, descent, module_problem
from raymeta.data import digits, split
from raymeta.optim import Optimizer, sgd

LR, MOMENTUM = 0.05, 0.7
#: Hyperparameters to learn, all at the same values: what is learned -> λ. A vector is a
#: schedule, whose entries share the steps of a run equally.
LEARNED = {
    "lr, momentum": {"lr": torch.tensor(LR), "momentum": torch.tensor(MOMENTUM)},
    "32 values": {"lr": torch.full((16,), LR), "momentum": torch.full((16,), MOMENTUM)},
    "lr": {"lr": torch.tensor(LR)},
}
BOTH = "lr, momentum"
SMALL = "MLP 4-8-1"


class Rows(nn.Module):
    """A GRU that reads an image row by row, and a linear layer at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.GRU(8, 32, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (batch, 10), of images, shape (batch, 64)."""
        return self.head(self.rows(images.view(-1, 8, 8))[0][:, -1])


MODELS: dict[str, Callable[[], nn.Module]] = {
    "MLP 64-128-10": lambda: nn.Sequential(
        nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 10)
    ),
    "CNN 1-8-16": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3),
        nn.Tanh(),
        nn.Conv2d(8, 16, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(256, 10),
    ),
    "GRU 8-32": Rows,
}


class Run(NamedTuple):
    """A training run as raymeta sees it, and what plain PyTorch needs for the same."""

    problem: BilevelProblem
    hparams: Tensors
    steps: int
    network: nn.Module = nn.Identity()
    val: tuple[Tensor, ...] = ()

    def batch(self, t: int) -> tuple[Tensor, Tensor]:
        """Images and labels of step t."""
        (images,), labels, *_ = self.problem.batch(t).data
        return images, labels


def inner_optimizer(hparams: Tensors, steps: int) -> Optimizer:
    """SGD with momentum over a run of so many steps."""

    def over_run(value: Tensor) -> Tensor:
        return value.repeat_interleave(max(1, steps // len(value)))

    settings = {k: v if v.ndim == 0 else over_run(v) for k, v in hparams.items()}
    return sgd(settings["lr"], momentum=settings.get("momentum", MOMENTUM))


@cache
def digits_run(model: str, steps: int, dtype: torch.dtype, learned: str = BOTH) -> Run:
    """A network on the digits, in batches of 64; validated on 449 images.

    Made once: what is traced and compiled stays with its problem.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = MODELS[model]().to(dtype)
    x, y = digits()
    train, val, _ = split(x.to(dtype), y, fractions=(0.5, 0.25), seed=0)
    problem = module_problem(
        network,
        loss=F.cross_entropy,
        train=train,
        val=val,
        batch_size=64,
        optimizer=lambda hparams: inner_optimizer(hparams, steps),
    )
    hparams = {name: value.to(dtype) for name, value in LEARNED[learned].items()}
    return Run(problem, hparams, steps, network, val.tensors)


def small_run(steps: int) -> Run:
    """An MLP 4-8-1 on a fixed batch of 16: ten thousand steps in a minute."""
    generator = torch.Generator().manual_seed(0)
    shapes = (16, 4), (16, 1), (4, 8), (8, 1)
    x, y, first, last = (torch.randn(*s, generator=generator) for s in shapes)

    def loss(params: Tensors, *_: object) -> Tensor:
        return ((x @ params["first"]).tanh() @ params["last"] - y).square().mean()

    problem = descent(
        init_params=lambda _: {"first": first, "last": last},
        inner_loss=loss,
        outer_loss=loss,
        optimizer=lambda hparams: inner_optimizer(hparams, steps),
    )
    return Run(problem, LEARNED[BOTH], steps)
