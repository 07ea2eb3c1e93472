"""Small data sets, modules and problems for the tests of `module_problem`."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta import module_problem, optim
from raymeta.hypergrad import Forward, Reverse
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams

TRAIN, VAL, SIZE = 22, 14, 8
CLOSE = {"rtol": 1e-12, "atol": 1e-13}
both = pytest.mark.parametrize(
    "estimator", [Reverse(6), Forward(6)], ids=["reverse", "forward"]
)


def data(*shape: int, n: int = TRAIN, seed: int = 0) -> TensorDataset:
    """Inputs of a shape, (5,) by default, of three classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *(shape or (5,)), generator=generator) + 0.3
    return TensorDataset(x, torch.randint(3, (n,), generator=generator))


def mlp(*between: nn.Module) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 6), *between, nn.Tanh(), nn.Linear(6, 3))


def momentum_sgd(hparams: Hparams) -> optim.Optimizer:
    return optim.sgd(hparams["lr"], momentum=hparams["momentum"], weight_decay=0.01)


def hparams_of(**others) -> Hparams:
    return {"lr": torch.tensor(0.2), "momentum": torch.tensor(0.6)} | others


def problem_of(module: nn.Module, *shape: int, **others) -> BilevelProblem:
    arguments = {
        "loss": F.cross_entropy,
        "train": data(*shape),
        "val": data(*shape, n=VAL, seed=1),
        "optimizer": momentum_sgd,
        "batch_size": SIZE,
        "seed": 3,
    }
    return module_problem(module, **(arguments | others))


def train_with_torch(module: nn.Module, problem: BilevelProblem, steps: int) -> None:
    """Trains the module itself on the problem's batches."""
    module.train()
    free = [p for p in module.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(free, lr=0.2, momentum=0.6, weight_decay=0.01)
    for t in range(steps):
        inputs, targets, _ = problem.batch(t).data
        sgd.zero_grad()
        F.cross_entropy(module(*inputs), targets).backward()
        sgd.step()
        for buffer in module.buffers():
            buffer.detach_()
    module.eval()


def frozen() -> nn.Module:
    net = mlp()
    net[0].weight.requires_grad_(False)
    return net


class Tied(nn.Module):
    """One matrix under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(5, 5), nn.Linear(5, 5)
        self.decode.weight = self.encode.weight
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decode(self.encode(x).tanh()))


def ridge(params: dict[str, Tensor], hparams: Hparams) -> Tensor:
    names = sorted(params)
    squares = torch.stack([params[name].square().sum() for name in names])
    return (hparams["l2"] * squares).sum()
