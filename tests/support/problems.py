"""Small problems with every kind of hyperparameter, for the conformance suites."""

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta import module_problem, optim
from raymeta.problem import BilevelProblem, descent
from raymeta.types import Batch, Hparams, Tensors


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def mlp(optimizer, hparams_in_loss: bool = False) -> BilevelProblem:
    """A small classifier on fixed random data; E is the loss on other data."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x, x_val = normal(4, 16, 5), normal(20, 5)
    y = torch.randint(3, (4, 16), generator=generator)
    y_val = torch.randint(3, (20,), generator=generator)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = network()
    start = {name: p.detach() for name, p in net.named_parameters()}

    def init_params(hparams: Hparams) -> Tensors:
        scale = hparams.get("init_scale", 1.0)
        return {name: p * scale for name, p in start.items()}

    def inner_loss(params: Tensors, hparams: Hparams, batch: Batch) -> torch.Tensor:
        inputs, targets = batch.data
        loss = F.cross_entropy(
            functional_call(net, params, (inputs,)), targets, reduction="none"
        )
        if hparams_in_loss:
            loss = loss * torch.sigmoid(hparams["example_weight"])
            penalty = sum(p.square().sum() for p in params.values())
            return loss.mean() + hparams["l2"] * penalty
        return loss.mean()

    def outer_loss(params: Tensors, hparams: Hparams) -> torch.Tensor:
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

    def optimizer(h: Hparams) -> optim.Optimizer:
        return optim.sgd(
            h["lr"],
            momentum=h["momentum"],
            dampening=h["dampening"],
            weight_decay=h["weight_decay"],
        )

    return mlp(optimizer, hparams_in_loss=True), hparams


def noisy_network() -> tuple[BilevelProblem, Hparams]:
    """Batch norms and dropout: buffers that change, randomness that depends on t."""
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(
        torch.randn(40, 5, generator=generator),
        torch.randint(3, (40,), generator=generator),
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3)
        )
    problem = module_problem(
        net,
        loss=F.cross_entropy,
        train=data,
        val=data,
        batch_size=8,
        # The bias before the norm has gradient 0 but for rounding: ε keeps it so.
        optimizer=lambda h: optim.adam(h["lr"], betas=(h["beta1"], 0.99), eps=1e-3),
    )
    return problem, {"lr": torch.tensor(0.03), "beta1": torch.tensor(0.8)}
