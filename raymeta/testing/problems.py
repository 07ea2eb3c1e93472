"""Problems that the conformance suites train: small ones, with all kinds of λ."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from raymeta.optim import Optimizer, sgd
from raymeta.problem import BilevelProblem, descent
from raymeta.types import Batch, Hparams, Tensors

#: The weights of `curved_layers`.
SHAPES = {"layer.weight": (2, 3), "layer.bias": (2,), "head": (2,)}


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def mlp(
    optimizer: Callable[[Hparams], Optimizer], hparams_in_loss: bool = False
) -> BilevelProblem:
    """A small classifier on fixed random data; E is the loss on other data."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x, x_val = normal(4, 16, 5), normal(20, 5)
    y = torch.randint(3, (4, 16), generator=generator)
    y_val = torch.randint(3, (20,), generator=generator)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = _network()
    start = {name: p.detach() for name, p in net.named_parameters()}

    def init_params(hparams: Hparams) -> Tensors:
        scale = hparams.get("init_scale", 1.0)
        return {name: p * scale for name, p in start.items()}

    def inner_loss(params: Tensors, hparams: Hparams, batch: Batch) -> Tensor:
        inputs, targets = batch.data
        loss = F.cross_entropy(
            functional_call(net, params, (inputs,)), targets, reduction="none"
        )
        if hparams_in_loss:
            loss = loss * torch.sigmoid(hparams["example_weight"])
            squares = [p.square().sum() for p in params.values()]
            return loss.mean() + hparams["l2"] * sum(squares)
        return loss.mean()

    def outer_loss(params: Tensors, hparams: Hparams) -> Tensor:
        return F.cross_entropy(functional_call(net, params, (x_val,)), y_val)

    return descent(
        init_params=init_params,
        inner_loss=inner_loss,
        outer_loss=outer_loss,
        optimizer=optimizer,
        batch=lambda t: Batch(torch.tensor(t), (x[t % 4], y[t % 4])),
        outer_cost=20 / 16,
    )


def sgd_everything() -> tuple[BilevelProblem, Hparams]:
    """λ in the optimizer, the inner loss and the start of training."""
    hparams = {
        "lr": torch.tensor(0.3),
        "momentum": torch.tensor(0.7),
        "dampening": torch.tensor(0.2),
        "weight_decay": torch.tensor(0.02),
        "example_weight": torch.linspace(-1, 1, 16),
        "l2": torch.tensor(0.01),
        "init_scale": torch.tensor(1.3),
    }

    def optimizer(h: Hparams) -> Optimizer:
        return sgd(
            h["lr"],
            momentum=h["momentum"],
            dampening=h["dampening"],
            weight_decay=h["weight_decay"],
        )

    return mlp(optimizer, hparams_in_loss=True), hparams


def heavy_problem() -> tuple[BilevelProblem, Hparams]:
    """Three equal layers, so that matrix products dominate."""
    generator = torch.Generator().manual_seed(0)
    start = {f"w{i}": torch.randn(48, 48, generator=generator) * 0.1 for i in range(6)}
    x = torch.randn(32, 48, generator=generator)

    def loss(params: Tensors) -> Tensor:
        y = x
        for i in range(6):
            y = torch.tanh(y @ params[f"w{i}"])
        return y.square().mean()

    problem = descent(
        init_params=lambda hparams: start,
        inner_loss=lambda params, hparams, batch: loss(params),
        outer_loss=lambda params, hparams: loss(params),
        optimizer=lambda h: sgd(h["lr"], momentum=0.5, weight_decay=h["weight_decay"]),
    )
    return problem, {"lr": torch.tensor(0.1), "weight_decay": torch.tensor(0.01)}


def curved_layers(optimizer: Callable[[Hparams], Optimizer]) -> BilevelProblem:
    """Two curved layers of ten weights, with other data at each of four steps."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(5, 4, 3, generator=generator)
    y = torch.randn(5, 4, generator=generator)

    def loss(params: Tensors, data: tuple[Tensor, Tensor]) -> Tensor:
        hidden = torch.tanh(data[0] @ params["layer.weight"].T + params["layer.bias"])
        return torch.log1p((hidden @ params["head"] - data[1]).square()).mean()

    start = random_tensors(7)
    return descent(
        init_params=lambda hparams: start,
        inner_loss=lambda params, hparams, batch: loss(params, batch.data),
        outer_loss=lambda params, hparams: loss(params, (x[4], y[4])),
        optimizer=optimizer,
        batch=lambda t: Batch(torch.tensor(t), (x[t % 4], y[t % 4])),
    )


def random_tensors(seed: int, scale: float = 1.0) -> Tensors:
    """Weights, or gradients, of `curved_layers`."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(shape, generator=generator)
        for name, shape in SHAPES.items()
    }
