"""Compiled second derivatives against autograd's eager double backward, in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import raymeta

pytestmark = pytest.mark.usefixtures("float64")


def derivatives(function, x, w):
    """f, dE/dx, and the derivatives of a penalty on dE/dx, by x and w."""
    x, w = (z.detach().clone().requires_grad_() for z in (x, w))
    out = function(x, w)
    (slope,) = torch.autograd.grad(out["loss"], x, create_graph=True)
    penalty = (slope.square().sum() - 1) ** 2 + (out["loss"] * slope.sum())
    return out["loss"], slope, *torch.autograd.grad(penalty, [x, w])


def toy(x, w):
    hidden = torch.tanh(x @ w)
    return {"loss": (hidden.sin() * x[:, :3]).sum(), "classes": hidden.argmax(1)}


def test_first_and_second_derivatives_are_those_of_double_backward():
    twice = raymeta.compile_twice(toy)
    for rows in (4, 6, 4):  # other shapes are other programs
        x, w = torch.randn(rows, 5), torch.randn(5, 3)
        found, wanted = derivatives(twice, x, w), derivatives(toy, x, w)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        assert torch.equal(twice(x, w=w)["classes"], toy(x, w)["classes"])
    w.requires_grad_()  # x requires none
    (slope,) = torch.autograd.grad(twice(x, w)["loss"], w)
    torch.testing.assert_close(slope, torch.autograd.grad(toy(x, w)["loss"], w)[0])


def test_a_module_has_its_own_parameters_and_buffers():
    net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1))
    x = torch.randn(8, 3, requires_grad=True)
    twice = raymeta.compile_twice(net)
    for _ in range(2):

        def penalty(function):
            (slope,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
            return torch.autograd.grad(
                slope.square().sum(), list(net.parameters())[:-1]
            )

        before = {k: b.clone() for k, b in net.named_buffers()}
        wanted = penalty(net)
        after = {k: b.clone() for k, b in net.named_buffers()}
        net.load_state_dict(before, strict=False)
        found = penalty(twice)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(buffer, after[name])
        with torch.no_grad():
            net[0].weight.add_(0.1)
    with torch.no_grad():
        torch.testing.assert_close(raymeta.compile_twice(net.eval())(x), net(x))


W = torch.ones(3, requires_grad=True)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (3, "needs a function or a module, but got 3"),
        (lambda x: (x * W).sum(), "reads a tensor that requires grad beside them"),
        (lambda x: F.dropout(x).sum(), r"draws random numbers \(bernoulli_"),
    ],
)
def test_refusals(function, message):
    with pytest.raises(ValueError, match=message):
        raymeta.compile_twice(function)(torch.ones(3, requires_grad=True))


def test_the_third_derivative_is_refused():
    x = torch.randn(3, requires_grad=True)
    (first,) = torch.autograd.grad(
        raymeta.compile_twice(lambda x: (x**4).sum())(x), x, create_graph=True
    )
    with pytest.raises(ValueError, match=r"a graph beyond was asked for"):
        torch.autograd.grad(first.sum(), x, create_graph=True)
