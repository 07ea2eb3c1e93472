"""What forward mode owes to operators: reroute, or a name."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta import module_problem, optim
from raymeta.hypergrad import Forward, Reverse, hypergradient
from tests.truth import largest_relative_error

pytestmark = pytest.mark.usefixtures("float64")


def regression(loss):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 3, generator=generator)
    data = TensorDataset(x, x.sum(1, keepdim=True).sin())
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    problem = module_problem(
        net,
        loss=loss,
        train=data,
        val=data,
        optimizer=lambda h: optim.sgd(h["lr"], momentum=h["momentum"]),
        batch_size=8,
    )
    return problem, {"lr": torch.tensor(0.1), "momentum": torch.tensor(0.6)}


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss], ids=["mse", "l1"])
def test_losses_of_two_floating_arguments(loss):
    problem, hparams = regression(loss)
    forward = hypergradient(problem, hparams, Forward(6))
    reverse = hypergradient(problem, hparams, Reverse(6))
    assert largest_relative_error(forward.grads, reverse.grads) < 1e-11


def test_an_operator_without_forward_derivative_is_named_with_the_remedy():
    problem, hparams = regression(F.huber_loss)
    hypergradient(problem, hparams, Reverse(2))
    with pytest.raises(ValueError, match=r"huber_loss.*use Reverse"):
        hypergradient(problem, hparams, Forward(2))
