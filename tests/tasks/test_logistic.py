import pytest
import torch
from torch.func import grad, hessian

from raymeta.hypergrad import Reverse, hypergradient
from raymeta.outer.report import plain_run
from raymeta.tasks import Logistic

pytestmark = pytest.mark.usefixtures("float64")


def test_features_are_standardized_by_the_training_part():
    (inputs,), targets, _ = Logistic().sample(0).batch(0).data
    assert inputs.shape == (284, 30)
    torch.testing.assert_close(inputs.mean(0), torch.zeros(30), rtol=0, atol=1e-12)
    torch.testing.assert_close(inputs.square().mean(0), torch.ones(30))
    assert set(targets.tolist()) == {0.0, 1.0}


def test_at_the_minimum_the_hypergradient_is_the_implicit_one():
    r"""dE/dλ_j = -∇E(w*)ᵀ H⁻¹ w_j e_j, by the implicit function theorem."""
    problem = Logistic().sample(0)
    spread = torch.logspace(-1.5, 0.5, 30)
    hparams, steps = {"l2": spread}, 1500
    state, _ = plain_run(problem, hparams, steps)
    data = problem.batch(0)

    def unpack(flat):
        params = {"weight": flat[:30].view(1, 30), "bias": flat[30:]}
        return state._replace(params=params)

    flat = torch.cat([state.params["weight"].flatten(), state.params["bias"]])
    slope = grad(lambda w: problem.inner_loss(unpack(w), hparams, data))(flat)
    assert float(slope.norm()) < 1e-9
    curvature = hessian(lambda w: problem.inner_loss(unpack(w), hparams, data))(flat)
    outer = grad(lambda w: problem.outer_loss(unpack(w), hparams))(flat)
    truth = -torch.linalg.solve(curvature, outer)[:30] * flat[:30]
    found = hypergradient(problem, hparams, Reverse(steps)).grads["l2"]
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-10)
