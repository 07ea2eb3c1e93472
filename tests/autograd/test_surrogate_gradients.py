"""A backward pass that is not a derivative is told, and a true one never."""

import warnings

import pytest
import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from raymeta import hypergrad, optim
from raymeta.hypergrad import hypergradient
from raymeta.problem import BilevelProblem, descent


def simple(name, forward, backward):
    """A Function of one tensor; what it saves is that tensor."""

    def save(ctx, x):
        ctx.save_for_backward(x)
        return forward(x)

    def pull(ctx, g):
        return backward(ctx.saved_tensors[0], g)

    methods = {"forward": staticmethod(save), "backward": staticmethod(pull)}
    return type(name, (Function,), methods | {"__module__": __name__})


def without_graph(x, g):
    with torch.no_grad():
        return g * x.cos()


class InTheMiddle(Function):
    """What it saves is neither input nor output: its graph is lost."""

    @staticmethod
    def forward(ctx, x):
        t = torch.tanh(x)
        ctx.save_for_backward(t)
        return t.square()

    @staticmethod
    def backward(ctx, g):
        (t,) = ctx.saved_tensors
        return 2 * g * t * (1 - t.square())


class OfTwo(Function):
    """One argument has no derivative, which nobody asks for."""

    @staticmethod
    def forward(ctx, x, data, scale):
        ctx.save_for_backward(x, data)
        ctx.scale = scale
        return scale * data * x.sin()

    @staticmethod
    def backward(ctx, g):
        x, data = ctx.saved_tensors
        return ctx.scale * data * g * x.cos(), None, None


class Drawn(Function):
    """Its derivative holds for what was drawn."""

    @staticmethod
    def forward(ctx, x):
        noise = torch.rand_like(x)
        ctx.save_for_backward(noise)
        return noise * x

    @staticmethod
    def backward(ctx, g):
        return ctx.saved_tensors[0] * g


class OnlyInEvaluation(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


SURROGATES = {
    "straight through": simple("Round", torch.round, lambda x, g: g),
    "reversed": simple("Reverse", torch.clone, lambda x, g: -g),
    "scaled": simple("Scale", torch.clone, lambda x, g: 0.1 * g),
    "spike": simple("Spike", lambda x: (x > 0).to(x), lambda x, g: g / (1 + x.abs())),
}
TRUE = {
    "sine": simple("Sine", torch.sin, lambda x, g: g * x.cos()),
    "relu": simple("Relu", torch.relu, lambda x, g: g * (x > 0)),
    "constant": simple("Sign", torch.sign, lambda x, g: torch.zeros_like(g)),
    "identity": simple("Same", torch.clone, lambda x, g: g),
}
H = {"lr": torch.tensor(0.1)}
DATA = torch.linspace(-1, 1, 20).reshape(4, 5)


def problem(inside=lambda x: x, at_the_end=lambda x: x, dtype=torch.float32):
    x = DATA.to(dtype)
    return descent(
        init_params=lambda h: {"w": torch.linspace(0.3, 1.2, 5, dtype=dtype)},
        inner_loss=lambda p, h, b: (
            (inside(1.3 * x * p["w"]).sum(1) - 1).square().mean()
        ),
        outer_loss=lambda p, h: (at_the_end(p["w"] * x) - 2).square().mean(),
        optimizer=lambda h: optim.sgd(h["lr"]),
    )


def told(problem, estimator=None) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            (estimator or hypergrad.Reverse(2)).init(problem, H)
    return [str(one.message) for one in caught]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SURROGATES)
def test_a_surrogate_is_told_once_by_name(name, dtype) -> None:
    cls = SURROGATES[name]
    for places in ({"inside": cls.apply}, {"at_the_end": cls.apply}):
        (message,) = told(problem(**places, dtype=dtype))
        assert message.startswith(f"{cls.__name__} has a backward pass that is not the")
        assert "\n" not in message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", TRUE)
def test_a_true_derivative_is_not(name, dtype) -> None:
    function = TRUE[name].apply
    if name != "constant":
        assert not told(problem(function, function, dtype))
    assert not told(problem(at_the_end=function, dtype=dtype))


def test_arguments_without_derivative_and_random_ones_are_not() -> None:
    def seeded(x):
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            return Drawn.apply(x)

    of_two = lambda x: OfTwo.apply(x, DATA, 2.0)  # noqa: E731
    for function in (of_two, seeded):
        assert not told(problem(function, function))
    assert not told(problem(at_the_end=OnlyInEvaluation.apply))


@pytest.mark.parametrize("function", [simple("Sine", torch.sin, without_graph)])
def test_a_backward_pass_without_a_graph_is_told_where_it_is_differentiated(
    function,
) -> None:
    (message,) = told(problem(function.apply))
    assert message.startswith("Sine has a backward pass that autograd cannot")
    assert not told(problem(at_the_end=function.apply))


def test_what_a_forward_pass_keeps_has_its_graph_in_a_descent_alone() -> None:
    assert not told(problem(InTheMiddle.apply))

    def step(w, h, b):
        at = w.detach().requires_grad_() if not w.requires_grad else w
        with torch.enable_grad():
            loss = InTheMiddle.apply(at).sum()
            (g,) = torch.autograd.grad(loss, at, create_graph=True)
        return w - h["lr"] * g

    own = BilevelProblem(
        init=lambda h: torch.linspace(0.3, 1.2, 5),
        step=step,
        outer_loss=lambda w, h: w.square().sum(),
    )
    (message,) = told(own)
    assert message.startswith("InTheMiddle has a backward pass that autograd cannot")


def test_what_needs_no_derivative_says_nothing() -> None:
    surrogate = problem(SURROGATES["straight through"].apply)
    assert not told(surrogate, hypergrad.ES(2, 0.1, 2, vectorized=False))
    (message,) = told(surrogate)  # reverse mode on the same problem does
    assert "Round" in message


def test_stopping_a_gradient_is_no_fault_of_a_true_function() -> None:
    sine = TRUE["sine"].apply
    assert not told(problem(lambda x: sine(x) * x.detach()))


def test_numbers_are_those_of_autograd_and_differ_from_the_slope() -> None:
    estimator = hypergrad.Reverse(2)
    at_the_end = problem(at_the_end=SURROGATES["reversed"].apply, dtype=torch.float64)
    with pytest.warns(UserWarning, match="^Reverse has a backward pass"):
        found = hypergradient(at_the_end, H, estimator)
    truth = hypergradient(problem(dtype=torch.float64), H, estimator)
    torch.testing.assert_close(found.grads["lr"], -truth.grads["lr"])
