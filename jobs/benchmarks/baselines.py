"""The same runs by plain PyTorch, by `higher` and by TorchOpt."""

from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import higher
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.benchmarks.cases import MOMENTUM, Run
from raymeta import Tensors

#: None where it is not installed.
torchopt: Any = import_module("torchopt") if find_spec("torchopt") else None

#: What a run ends with: E(s_T), and dE/dλ unless it only trains.
Outcome = tuple[Tensor, Tensors]


def train_with_torch(run: Run) -> Outcome:
    """Training as PyTorch users write it."""
    network = deepcopy(run.network)
    optimizer = _torch_sgd(network, run.hparams)
    for t in range(run.steps):
        images, labels = run.batch(t)
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    with torch.no_grad():
        return _outer_loss(network, run), {}


def unroll_with_higher(run: Run) -> Outcome:
    """Back-propagation through the run by `higher`."""
    leaves = _leaves(run)
    optimizer = _torch_sgd(run.network, run.hparams)
    override = {name: [leaf] for name, leaf in leaves.items()}
    with higher.innerloop_ctx(run.network, optimizer, override=override) as (net, opt):
        for t in range(run.steps):
            images, labels = run.batch(t)
            opt.step(F.cross_entropy(net(images), labels))
        return _pull_back(_outer_loss(net, run), leaves)


def unroll_with_torchopt(run: Run) -> Outcome:
    """Back-propagation through the run by TorchOpt.

    Its optimizer takes λ when it is made, which therefore happens in every run.
    """
    leaves = _leaves(run)
    network = deepcopy(run.network)
    optimizer = torchopt.MetaSGD(network, **leaves, moment_requires_grad=False)
    for t in range(run.steps):
        images, labels = run.batch(t)
        optimizer.step(F.cross_entropy(network(images), labels))
    return _pull_back(_outer_loss(network, run), leaves)


def _torch_sgd(network: nn.Module, hparams: Tensors) -> torch.optim.SGD:
    given: dict[str, Any] = {name: float(value) for name, value in hparams.items()}
    return torch.optim.SGD(network.parameters(), **{"momentum": MOMENTUM, **given})


def _leaves(run: Run) -> Tensors:
    return {name: v.detach().requires_grad_() for name, v in run.hparams.items()}


def _outer_loss(network: nn.Module, run: Run) -> Tensor:
    images, labels = run.val
    return F.cross_entropy(network(images), labels)


def _pull_back(outer_loss: Tensor, leaves: Tensors) -> Outcome:
    grads = torch.autograd.grad(outer_loss, list(leaves.values()))
    return outer_loss.detach(), dict(zip(leaves, grads, strict=True))
