"""Floating-point operations of a step: what one counts by hand."""

import math
from dataclasses import replace

import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import TensorDataset

from raymeta.modules import module_problem
from raymeta.optim import sgd
from raymeta.outer.flops import step_flops

LR = {"lr": torch.tensor(0.1)}
VALUES = torch.zeros(4, 1)


def problem_of(net, loss, targets):
    data = TensorDataset(torch.randn(4, 3), targets)
    return module_problem(
        net,
        loss=loss,
        train=data,
        val=data,
        optimizer=lambda hparams: sgd(hparams["lr"]),
        batch_size=4,
        seed=0,
    )


def test_a_step_costs_the_operations_that_one_counts_by_hand():
    # Forward 2·4·3, and the gradient of the weights as much; inputs need none. The
    # bias sums over 4; each of 4 numbers is scaled and subtracted; a step is counted.
    products, others = 2 * 2 * 4 * 3, 4 + 2 * 4 + 1
    assert (
        step_flops(problem_of(nn.Linear(3, 1), mse_loss, VALUES), LR)
        == products + others
    )

    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    mlp = problem_of(net, cross_entropy, torch.tensor([0, 1, 1, 0]))
    forward = 2 * 4 * (3 * 5 + 5 * 2)
    backward = forward + 2 * 4 * 5 * 2  # all weights, and the second layer's input
    tanh, biases, weights = 2 * 4 * 5, 4 * (5 + 2), 3 * 5 + 5 + 5 * 2 + 2
    elementwise = tanh + biases + 2 * weights + 1
    assert step_flops(mlp, LR) == forward + backward + elementwise == 613


def test_a_torch_without_tags_of_reductions_counts_as_much(monkeypatch):
    monkeypatch.delattr(torch.Tag, "reduction", raising=False)
    assert step_flops(problem_of(nn.Linear(3, 1), mse_loss, VALUES), LR) == 61


def test_a_step_that_raises_has_no_count():
    broken = replace(problem_of(nn.Linear(3, 1), mse_loss, VALUES), step=None)
    assert math.isnan(step_flops(broken, LR))
