"""Implicit MAML against its closed form."""

import math

import pytest
import torch
from torch import nn
from torch.func import hessian
from torch.nn import functional as F

from raymeta.hypergrad import ConjugateGradient
from raymeta.meta import (
    Episode,
    Examples,
    MetaModule,
    imaml,
)
from raymeta.optim import sgd
from tests.support.learners import (
    assert_close,
    gradients,
    seeded,
    tasks,
)

pytestmark = pytest.mark.usefixtures("float64")


# -------------------------------------------------------------------------------- iMAML


def linear(inputs: int = 3) -> nn.Module:
    return seeded(lambda: nn.Linear(inputs, 1))


def regressions(count: int = 3, n: int = 8) -> Episode:
    generator = torch.Generator().manual_seed(0)

    def examples() -> Examples:
        x = torch.randn(count, n, 3, generator=generator)
        y = torch.randn(count, n, 1, generator=generator)
        return Examples.unweighted(x, y)

    return Episode(examples(), examples())


def test_imaml_is_its_closed_form_on_linear_regression():
    """L is quadratic: φ* = θ - (H + λ)⁻¹ ∇L(θ), dE/dθ = λ (H + λ)⁻¹ ∇E(φ*)."""
    net, episodes, strength = linear(), regressions(), 0.7
    learner = imaml(
        net,
        loss=F.mse_loss,
        strength=strength,
        optimizer=sgd(0.1),
        steps=400,
        solver=ConjugateGradient(),
    )
    module = MetaModule(learner)
    theta = torch.cat([p.detach().flatten() for p in net.parameters()])

    def value(w, data):
        return F.mse_loss(data.inputs @ w[:3, None] + w[3], data.targets)

    losses, grads = [], []
    for one in tasks(episodes):
        matrix = hessian(value)(theta, one.support)
        matrix = matrix + strength * torch.eye(4)
        slope = torch.func.grad(value)(theta, one.support)
        phi = theta - torch.linalg.solve(matrix, slope)
        losses.append(value(phi, one.query))
        outer = torch.func.grad(value)(phi, one.query)
        grads.append(strength * torch.linalg.solve(matrix, outer))
    output = module(episodes)
    assert_close(output.losses.detach(), torch.stack(losses))
    found = gradients(module, output.loss)
    flat = torch.cat([g.flatten() for g in found.values()])
    assert_close(flat, torch.stack(grads).mean(0), rtol=1e-8)
    module.eval()
    assert_close(module(episodes).losses, torch.stack(losses))


def test_imaml_solves_as_far_as_it_is_told():
    """One conjugate gradient: v = (bᵀb / bᵀAb) b."""
    net, episodes, strength = linear(), regressions(1), 0.7
    solver = ConjugateGradient(1, accept=math.inf)
    learner = imaml(
        net, loss=F.mse_loss, strength=strength, optimizer=sgd(0.1), solver=solver
    )
    module = MetaModule(learner)
    phi = module.adapt(episodes).params
    phi = torch.cat([phi["weight"].flatten(), phi["bias"].flatten()]).detach()
    (one,) = tasks(episodes)

    def value(w, data):
        return F.mse_loss(data.inputs @ w[:3, None] + w[3], data.targets)

    b = torch.func.grad(value)(phi, one.query)
    matrix = hessian(value)(phi, one.support) + strength * torch.eye(4)
    truth = strength * (b @ b) / (b @ matrix @ b) * b
    output = module(episodes)
    found = gradients(module, output.loss)
    assert_close(torch.cat([g.flatten() for g in found.values()]), truth)
    rest = b - matrix @ truth / strength
    assert_close(output.metrics["residual"], (rest.norm() / b.norm())[None])


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan")])
def test_imaml_needs_a_pull(strength):
    with pytest.raises(ValueError, match="imaml needs strength > 0"):
        imaml(linear(), loss=F.mse_loss, strength=strength)
