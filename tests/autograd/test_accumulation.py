"""Sums of terms: the derivatives of the plain sum, one graph at a time."""

import gc
import weakref

import pytest
import torch
from torch.func import grad, jvp, vmap

from raymeta.autograd.accumulation import accumulated
from raymeta.autograd.stop_gradient import StopGradients, inner_gradient

pytestmark = pytest.mark.usefixtures("float64")
A = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def term(a):
    return lambda x, c: (torch.tanh(a @ x["w"]) * c["k"]).sin() * x["b"].exp()


TERMS = [term(a) for a in A]


def arguments():
    w, b, k, idle = (torch.rand(n, dtype=torch.float64) for n in ((3,), (), (), ()))
    leaves = [z.requires_grad_() for z in (w, b, k, idle)]
    return leaves, ({"w": w, "b": b, "n": torch.tensor(3), "idle": idle}, {"k": k})


def plain(*trees):
    return sum(f(*trees) for f in TERMS)


def test_value_and_derivatives_of_three_orders():
    torch.manual_seed(0)
    leaves, trees = arguments()
    found = []
    for function in (lambda *t: accumulated(TERMS, *t), plain):
        value, orders = function(*trees), []
        scalar = value
        for _ in range(3):
            grads = torch.autograd.grad(
                scalar, leaves[:3], create_graph=True, allow_unused=True
            )
            orders += [g.detach() for g in grads]
            scalar = sum((g**2).sum() for g in grads)
        found.append([value.detach(), *orders])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_what_is_not_reached_has_no_gradient():
    leaves, trees = arguments()
    value = accumulated(TERMS, *trees)
    *_, idle = torch.autograd.grad(value, leaves, allow_unused=True)
    assert idle is None


def test_within_transforms_it_is_the_plain_sum():
    _, trees = arguments()
    w = trees[0]["w"].detach()
    rest = {"b": torch.tensor(0.3), "n": torch.tensor(3)}

    def at(function):
        return lambda w: function({"w": w, **rest}, {"k": torch.tensor(0.7)})

    one, two = at(lambda *t: accumulated(TERMS, *t)), at(plain)
    torch.testing.assert_close(grad(one)(w), grad(two)(w))
    torch.testing.assert_close(jvp(one, (w,), (w,)), jvp(two, (w,), (w,)))
    many = torch.stack([w, 2 * w])
    torch.testing.assert_close(vmap(one)(many), vmap(two)(many))
    x = many.clone().requires_grad_()
    mapped = torch.autograd.grad(accumulated([vmap(one), vmap(one)], x).sum(), x)
    torch.testing.assert_close(mapped[0], 2 * vmap(grad(two))(many))


def test_one_terms_graph_is_alive_at_a_time():
    alive: list[weakref.ref] = []
    most = []

    def watched(x):
        inside = torch.tanh(x * 2)
        alive.append(weakref.ref(inside))
        most.append(sum(r() is not None for r in alive))
        return inside.sum()

    x = torch.rand(4, requires_grad=True)
    value = accumulated([watched] * 6, x)
    torch.autograd.grad(value, x)
    gc.collect()
    assert max(most) == 1
    assert not any(r() is not None for r in alive)


def test_what_stops_inner_gradients_stops_them():
    """As in a tower, whose step is a gradient of E."""

    def stopping(x):
        with StopGradients():
            return (x * x.detach()).sum()

    x = torch.rand(3, requires_grad=True)
    for value_of in (stopping, lambda x: accumulated([stopping] * 2, x) / 2):
        with inner_gradient() as inner:
            value = value_of(x)
            with inner.being_taken():
                (taken,) = torch.autograd.grad(value, x, create_graph=True)
        torch.testing.assert_close(taken.detach(), x.detach())
        (outer,) = torch.autograd.grad(taken.sum(), x)
        torch.testing.assert_close(outer, torch.ones(3))
