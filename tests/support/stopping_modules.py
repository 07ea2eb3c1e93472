"""Modules and losses that stop gradients, and hypergradients of their training."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.data import TensorDataset

from raymeta import hypergradient, module_problem, optim
from raymeta.hypergrad import (
    Checkpointed,
    Forward,
    Reverse,
    ShortTerm,
    Truncated,
)
from raymeta.problem import BilevelProblem

#: Of the modules that test these.
MARKS = [
    pytest.mark.usefixtures("float64"),
    # What torch says of torch.tensor(tensor), and of float(tensor).
    pytest.mark.filterwarnings("ignore:To copy construct", "ignore:Converting a tens"),
]
STEPS = 5
ESTIMATORS = {
    "reverse": Reverse(STEPS),
    "checkpointed": Checkpointed(STEPS),
    "truncated": Truncated(STEPS, STEPS),
    "forward": Forward(STEPS),
    "short_term": ShortTerm(STEPS),
    "higher": Reverse(STEPS, engine="higher"),
}


class Net(nn.Module):
    """Two layers, whose features a subclass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.features(torch.tanh(self.a(x))))

    def features(self, z: Tensor) -> Tensor:
        return z


class Detached(Net):
    def features(self, z):
        return z / (1 + z.detach().square().mean() + z.data.mean().square())


class Copied(Net):
    def features(self, z):
        mean = z.square().mean()
        return z / (1 + z.new_tensor(mean) + torch.tensor(mean))


class NoGrad(Net):
    def features(self, z):
        with torch.no_grad():
            scale = z.square().mean() * 2
            scale.add_(z.abs().mean())
        return z / (1 + scale)


class Decorated(Net):
    @torch.no_grad()
    def scale(self, z):
        return z.square().mean()

    def features(self, z):
        return z * self.scale(z)


class ClampedInPlace(Net):
    def features(self, z):
        z = z * 1.0
        with torch.no_grad():
            z.clamp_(-0.3, 0.3)
            z[:, 0] = z[:, 1] * 0.5
        return z


class RunningMaximum(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.zeros(()))

    def features(self, z):
        if self.training:
            with torch.no_grad():
                self.largest.mul_(0.9)
                torch.maximum(self.largest, z.abs().max(), out=self.largest)
        return z / (1 + self.largest)


class RunningMean(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))

    def features(self, z):
        if self.training:
            self.mean = 0.8 * self.mean + 0.2 * z.detach().mean(0)
        return z - self.mean


class Renormalized(Net):
    """Batch renormalization (Ioffe 2017): buffers are read, then moved in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("std", torch.ones(5))

    def features(self, z):
        if not self.training:
            return (z - self.mean) / self.std
        mean, std = z.mean(0), z.std(0)
        r, d = std.detach() / self.std, (mean.detach() - self.mean) / self.std
        self.mean.lerp_(mean.detach(), 0.1)
        self.std.lerp_(std.detach(), 0.1)
        return (z - mean) / std * r + d


class TensorHook(Net):
    def features(self, z):
        if z.requires_grad:
            z.register_hook(lambda g: 2 * g + g.square())
        return z


class Straight(Net):
    """A straight-through estimator: its training gradient is not its derivative."""

    def features(self, z):
        return z + (z.pow(3) - z).detach()


class Inference(Net):
    def features(self, z):
        with torch.inference_mode():
            scale = z.square().mean() * 2
        return z * scale


class Force(nn.Module):
    """The derivative of an energy in its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.energy(x).sum()
            (force,) = torch.autograd.grad(energy, x, create_graph=self.training)
        return force[:, :1]


class Penalized(Force):
    """The same without a thought of no_grad."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        energy = self.energy(x).sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0][:, :1]


class StoppedInHook(Net):
    """A gradient of a norm that none passes through."""

    def features(self, z):
        if z.requires_grad:
            z.register_hook(lambda g: g / (1e-3 + g.detach().norm()))
            z.register_hook(torch.no_grad()(lambda g: 2 * g.clamp(-0.2, 0.2)))
        return z


class Equilibrium(Net):
    """Fixed points whose gradient a hook finds (Bai et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(0.2 * torch.randn(5, 5))

    def features(self, z):
        def layer(at: Tensor) -> Tensor:
            return torch.tanh(at @ self.w + z)

        with torch.no_grad():
            at = z
            for _ in range(60):
                at = layer(at)
        at = layer(at)
        if self.training and at.requires_grad:
            near = at.detach().requires_grad_()
            after = layer(near)

            def solve(g: Tensor) -> Tensor:
                u = g
                for _ in range(60):
                    u = g + torch.autograd.grad(after, near, u, retain_graph=True)[0]
                return u

            at.register_hook(solve)
        return at


class Jacobian(Net):
    """A derivative by a transform, in which nothing is stopped."""

    def features(self, z):
        slopes = torch.func.vmap(torch.func.jacrev(lambda row: row.pow(3).sum()))
        return z.detach() + slopes(z)


class StopsLater(Net):
    """A gradient that is not stopped at first."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def features(self, z):
        self.calls = self.calls + self.training
        scale = 1 + z.square().mean()
        return z / (scale.detach() if self.calls > 2 else scale)


def hooked_parameters() -> nn.Module:
    net = Net()
    net.a.weight.register_hook(lambda g: 3 * g + g.square())
    net.b.bias.register_hook(torch.zeros_like)
    net.b.weight.register_hook(lambda g: g / (1 + g.detach().norm()))
    return net


def spectral() -> nn.Module:
    layer = parametrizations.spectral_norm(nn.Linear(4, 5))
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(5, 1))


MODULES = [
    Detached,
    Copied,
    NoGrad,
    Decorated,
    ClampedInPlace,
    RunningMaximum,
    RunningMean,
    Renormalized,
    TensorHook,
    Straight,
    Inference,
    Force,
    Penalized,
    StoppedInHook,
    Equilibrium,
    Jacobian,
    StopsLater,
    hooked_parameters,
    spectral,
]


def make(module) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        return module()


def data(n: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(n))
    return x, 0.7 * torch.tanh(x[:, :1] - x[:, 1:2])


def problem_of(module: nn.Module, loss=F.mse_loss) -> BilevelProblem:
    return module_problem(
        module,
        loss=loss,
        train=TensorDataset(*data()),
        val=TensorDataset(*data(9)),
        optimizer=lambda h: optim.sgd(h["lr"], momentum=0.5),
    )


def trained(problem: BilevelProblem, lr: float) -> float:
    hparams = {"lr": torch.tensor(lr)}
    state = problem.init(hparams)
    for t in range(STEPS):
        state = problem.step(state, hparams, problem.batch(t))
    return float(problem.outer_loss(state, hparams))


def central_difference(problem: BilevelProblem, at: float = 0.1) -> float:
    step = 1e-5
    return (trained(problem, at + step) - trained(problem, at - step)) / (2 * step)


def of_lr(problem: BilevelProblem, estimator) -> float:
    return float(
        hypergradient(problem, {"lr": torch.tensor(0.1)}, estimator).grads["lr"]
    )
