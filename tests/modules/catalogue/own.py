"""Modules as users write them: with memories, random numbers, hooks, own rules."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.modules.catalogue.kind import Kind, Uses

NET: Callable[[], nn.Module] = lambda: nn.Linear(5, 3)  # noqa: E731


def after(call: Callable[[Any, Tensor], Any], **others: Any) -> Kind:
    """What a function of (module, outputs of a linear layer) makes of them."""
    return Kind(
        lambda: Uses(lambda own, x: call(own, own.linear(x)), linear=nn.Linear(5, 3)),
        **others,
    )


class _Remembers(nn.Module):
    """State in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(5, 3), 0.0

    def forward(self, x: Tensor) -> Tensor:
        z = self.linear(x) + 0.1 * self.last
        self.last = float(z.mean().detach())
        return z


class _Counts(nn.Module):
    """A warm-up by a Python counter."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(5, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) * min(1.0, self.calls / 10)


class _KeepsTensor(nn.Module):
    """A tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.mean = nn.Linear(5, 3), torch.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.linear(x)
        self.mean = 0.9 * self.mean + 0.1 * z.detach().mean(0)
        return z - self.mean


class _KeepsFeatures(nn.Module):
    """Features that a loss or a figure may look at; nothing depends on them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.features = nn.Linear(5, 3), None

    def forward(self, x: Tensor) -> Tensor:
        self.features = self.linear(x)
        return self.features.tanh()


class _MovingMean(nn.Module):
    """A buffer that moves in `no_grad`, and that evaluation uses."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        z = self.linear(x)
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * z.mean(0))
        return z - self.mean


class _RunningMaximum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.register_buffer("largest", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        z = self.linear(x)
        if self.training:
            self.largest = torch.maximum(self.largest, z.detach().abs().max())
        return z / self.largest


STATEFUL = {
    "a number kept in an attribute": Kind(
        _Remembers, refused="_Remembers.last moves from call to call"
    ),
    "a Python counter": Kind(_Counts, refused="_Counts.calls moves from call to call"),
    "a tensor kept in an attribute": Kind(
        _KeepsTensor, refused="_KeepsTensor.mean moves from call to call"
    ),
    "features kept for others to see": Kind(_KeepsFeatures),
    "a mean that moves in no_grad": Kind(_MovingMean),
    "a running maximum, detached": Kind(_RunningMaximum),
}


def _shuffled(own: Any, z: Tensor) -> Tensor:
    return z + 0.3 * z[torch.randperm(len(z))]


def _filled(own: Any, z: Tensor) -> Tensor:
    return z * torch.empty(z.shape).uniform_(0.5, 1.5)


def _reparametrized(own: Any, z: Tensor) -> Tensor:
    return torch.distributions.Normal(z, 0.1 + z.square()).rsample()


def _relaxed(own: Any, z: Tensor) -> Tensor:
    return torch.distributions.RelaxedBernoulli(torch.tensor(0.5), logits=z).rsample()


def _chosen(own: Any, z: Tensor) -> Tensor:
    rows = torch.multinomial(torch.ones(len(z)), len(z), replacement=True)
    return z + 0.3 * z[rows]


def _python(own: Any, z: Tensor) -> Tensor:
    return z if random.random() < 0.5 else z.tanh()


def _numpy(own: Any, z: Tensor) -> Tensor:
    return z + float(np.random.normal())  # noqa: NPY002


def _generator() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    return Uses(
        lambda own, x: own.linear(x) + torch.rand(3, generator=generator),
        linear=nn.Linear(5, 3),
    )


RANDOM = {
    "torch.randn_like": after(lambda own, z: z + torch.randn_like(z), random=True),
    "torch.rand": after(lambda own, z: z * torch.rand(3), random=True),
    "torch.bernoulli": after(
        lambda own, z: z * torch.bernoulli(z * 0 + 0.5), random=True
    ),
    "torch.normal": after(lambda own, z: torch.normal(0.0, 1.0, (3,)) + z, random=True),
    "torch.randint": after(lambda own, z: z * torch.randint(3, (3,)), random=True),
    "torch.randperm": after(_shuffled, random=True),
    "torch.multinomial": after(_chosen, random=True),
    "Tensor.uniform_": after(_filled, random=True),
    "Normal.rsample": after(_reparametrized, random=True),
    "RelaxedBernoulli.rsample": after(_relaxed, random=True),
    "F.gumbel_softmax": after(lambda own, z: F.gumbel_softmax(z), random=True),
    "Python's random": after(_python, random=True),
    "numpy.random": after(_numpy, random=True),
    "a torch.Generator of one's own": Kind(
        _generator, refused="cannot seed the random generator"
    ),
}


class _Once(Function):
    """A backward pass that torch is told not to differentiate again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * g


class _Twice(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * g


class _Rules(Function):
    """With all rules that transforms ask for."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * g

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * tangent


class _Sign(Function):
    """A straight-through estimator: not the derivative of what it computes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


DERIVATIVES = {
    "Function, once_differentiable": after(
        lambda own, z: _Once.apply(z), refused="needs operators with a"
    ),
    "Function": after(
        lambda own, z: _Twice.apply(z),
        except_for={"Forward": "In order to use an autograd.Function"},
    ),
    "Function with rules of transforms": after(lambda own, z: _Rules.apply(z)),
    "Function whose backward is another's (straight through)": after(
        lambda own, z: _Sign.apply(z),
        except_for={"Forward": "In order to use an autograd.Function"},
        surrogate=True,
    ),
    "detach in forward": after(lambda own, z: z * z.detach().tanh()),
    "straight through by detach": after(lambda own, z: z + (z.round() - z).detach()),
    "no_grad in forward": after(lambda own, z: _without(z)),
    "torch.utils.checkpoint": after(
        lambda own, z: checkpoint(torch.tanh, z, use_reentrant=False),
        refused="torch.utils.checkpoint",
    ),
    "torch.autograd.grad in forward": Kind(
        lambda: Uses(_force, linear=nn.Linear(5, 3)),
        except_for={"Forward": "attempting to call Tensor.requires_grad_()"},
    ),
    "torch.func.grad in forward": after(
        lambda own, z: torch.func.grad(lambda a: a.pow(3).sum())(z)
    ),
    "torch.vmap in forward": after(lambda own, z: torch.vmap(torch.tanh)(z)),
}


def _without(z: Tensor) -> Tensor:
    with torch.no_grad():
        scale = z.abs().mean()
    return z / (1 + scale)


def _force(own: Any, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        energy = own.linear(x).tanh().sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0]


def _hooked(register: Callable[[nn.Linear], Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        layer = nn.Linear(5, 3)
        register(layer)
        return layer

    return make


def _tensor_hook(own: Any, z: Tensor) -> Tensor:
    if z.requires_grad:
        z.register_hook(lambda g: 0.5 * g)
    return z


HOOKS = {
    "forward hook": Kind(
        _hooked(lambda layer: layer.register_forward_hook(lambda m, i, o: o.tanh()))
    ),
    "forward pre-hook": Kind(
        _hooked(lambda layer: layer.register_forward_pre_hook(lambda m, i: i[0].tanh()))
    ),
    "full backward hook": Kind(
        _hooked(lambda layer: layer.register_full_backward_hook(lambda m, i, o: None)),
        refused="hook",
    ),
    "full backward pre-hook": Kind(
        _hooked(lambda layer: layer.register_full_backward_pre_hook(lambda m, o: None)),
        refused="hook",
    ),
    "hook of a parameter": Kind(
        _hooked(lambda layer: layer.weight.register_hook(torch.zeros_like)),
    ),
    "hook after accumulation": Kind(
        _hooked(
            lambda layer: layer.weight.register_post_accumulate_grad_hook(
                lambda p: None
            )
        ),
        refused="hook",
    ),
    "hook of a tensor in forward": after(_tensor_hook),
}


def _branching(own: Any, z: Tensor) -> Tensor:
    return z.tanh() if z.mean() > 0 else z.sin()


def _routed(own: Any, z: Tensor) -> Tensor:
    best = z.topk(2, 1).indices
    return z.gather(1, best) * z.softmax(1).gather(1, best)


FLOW = {
    "a branch on values": after(_branching),
    "experts chosen by topk": after(_routed),
    "a loop over examples": after(lambda own, z: torch.stack([a.tanh() for a in z])),
    "functional_call in forward": Kind(
        lambda: Uses(
            lambda own, x: torch.func.functional_call(
                own.made, {"weight": own.makes(x.mean(0)).view(3, 5)}, (x,)
            ),
            made=nn.Linear(5, 3, bias=False),
            makes=nn.Linear(5, 15),
        )
    ),
    "values read by .item()": after(
        lambda own, z: z * z.abs().max().item(),
        refused="a number that Tensor.item() gave",
    ),
    "values read by numpy": after(
        lambda own, z: z + torch.from_numpy(np.sin(z.detach().numpy())),
        refused="a number that Tensor.numpy() gave",
    ),
}
