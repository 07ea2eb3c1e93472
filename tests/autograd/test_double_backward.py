"""Operators without a second derivative are refused by name, not taken for 0."""

import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from raymeta import hypergrad, optim
from raymeta.autograd.double_backward import marked_backward_passes
from raymeta.hypergrad.base import require_twice_differentiable
from raymeta.problem import BilevelProblem, descent


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


def inside(params, hparams, batch) -> Tensor:
    return (Cube.apply(params["w"]) - 1).square().mean()


def last(params, hparams, batch) -> Tensor:
    """The gradient that comes in is constant, so that torch leaves no sign of it."""
    return Cube.apply(params["w"]).mean()


def dirichlet(params, hparams, batch) -> Tensor:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        drawn = torch.distributions.Dirichlet(params["w"].exp()).rsample()
    return drawn.square().sum()


def gamma(params, hparams, batch) -> Tensor:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        drawn = torch._standard_gamma(params["w"].exp())
    return drawn.square().sum()


def ctc(params, hparams, batch) -> Tensor:
    logits = (params["w"] * torch.arange(4.0).view(4, 1, 1)).log_softmax(-1)
    lengths = torch.tensor([4]), torch.tensor([2])
    return torch.nn.functional.ctc_loss(logits, torch.tensor([[1, 2]]), *lengths)


def cdist(params, hparams, batch) -> Tensor:
    return torch.cdist(params["w"][:, None], torch.zeros(1, 1), p=3.0).square().sum()


def problem(inner_loss, rule=lambda h: optim.sgd(h["lr"], momentum=0.5)):
    w = torch.tensor([0.3, -0.7, 0.5])
    return descent(
        init_params=lambda h: {"w": w.clone()},
        inner_loss=lambda p, h, b: h.get("scale", 1.0) * inner_loss(p, h, b),
        outer_loss=lambda p, h: (p["w"] - 0.2).square().sum(),
        optimizer=rule,
    )


H = {"lr": torch.tensor(0.1)}
SCALED = {**H, "scale": torch.tensor(1.0)}
REVERSE = [
    hypergrad.Reverse(4),
    hypergrad.Reverse(4, compile=True),
    hypergrad.Reverse(4, engine="higher"),
    hypergrad.Checkpointed(4),
    hypergrad.Truncated(4, 2),
    hypergrad.Reversible(4),
]


@pytest.mark.parametrize("estimator", REVERSE, ids=str)
@pytest.mark.parametrize("loss", [inside, last], ids=lambda f: f.__name__)
def test_once_differentiable_is_refused_by_name(estimator, loss) -> None:
    with pytest.raises(ValueError, match=r"^reverse mode needs .* but Cube is marked"):
        estimator.init(problem(loss), H)


@pytest.mark.parametrize("loss", [dirichlet, gamma, ctc, cdist])
def test_torchs_own_operators_are_refused(loss) -> None:
    with pytest.raises(ValueError, match=r"^reverse mode needs .* second deriv.*ES$"):
        hypergrad.Reverse(4).init(problem(loss), H)


def test_the_graph_walk_alone() -> None:
    x = torch.ones(3, requires_grad=True)
    with marked_backward_passes():
        (g,) = torch.autograd.grad(Cube.apply(x).sum(), x, create_graph=True)
    with pytest.raises(ValueError, match="Cube is marked @once_differentiable; no"):
        require_twice_differentiable({"grad": 2 * g}, remedy="no")
    (g,) = torch.autograd.grad(x.pow(3).sum(), x, create_graph=True)
    require_twice_differentiable([g, x])


def test_in_evaluation_and_in_first_order_rules_once_is_enough() -> None:
    evaluated = descent(
        init_params=lambda h: {"w": torch.ones(3)},
        inner_loss=lambda p, h, b: p["w"].square().sum(),
        outer_loss=lambda p, h: Cube.apply(p["w"]).sum(),
        optimizer=lambda h: optim.sgd(h["lr"]),
    )
    found = hypergrad.hypergradient(evaluated, H, hypergrad.Reverse(1))
    assert found.grads["lr"].item() == pytest.approx(3 * 3 * 0.8**2 * -2)
    first = problem(inside, lambda h: optim.first_order(optim.sgd(h["lr"])))
    hypergrad.hypergradient(first, H, hypergrad.Reverse(2))


def test_a_step_that_is_no_descent_needs_one_derivative() -> None:
    pushed = BilevelProblem(
        init=lambda h: torch.tensor(0.5),
        step=lambda s, h, b: Cube.apply(s) + h["lr"],
        outer_loss=lambda s, h: s.square(),
    )
    found = hypergrad.hypergradient(pushed, H, hypergrad.Reverse(1))
    assert found.grads["lr"].item() == pytest.approx(2 * (0.5**3 + 0.1))


def weighed(params, hparams, batch) -> Tensor:
    """λ beside the operator, not within it."""
    return Cube.apply(params["w"]).square().mean()


def test_one_step_ahead_asks_for_no_more_than_it_needs() -> None:
    """Where λ does not pass the operator its second derivative is not needed."""
    hypergradient = hypergrad.hypergradient
    found = hypergradient(problem(inside), H, hypergrad.ShortTerm())
    assert found.grads["lr"].isfinite()
    beside = descent(
        init_params=lambda h: {"w": torch.ones(3)},
        inner_loss=lambda p, h, b: (
            weighed(p, h, b) + h["l2"] * p["w"].square().sum() / 2
        ),
        outer_loss=lambda p, h: p["w"].sum(),
        optimizer=lambda h: optim.sgd(0.1),
    )
    l2 = {"l2": torch.tensor(0.5)}
    found = hypergradient(beside, l2, hypergrad.ShortTerm())
    assert found.grads["l2"].item() == pytest.approx(-0.1 * 3)


@pytest.mark.parametrize("loss", [inside, last], ids=lambda f: f.__name__)
def test_one_step_ahead_is_refused_where_it_needs_more(loss) -> None:
    match = "but Cube is marked"
    for estimator in (hypergrad.ShortTerm(), hypergrad.ShortTerm(2)):
        with pytest.raises(ValueError, match=match):
            estimator.init(problem(loss), SCALED)
    with pytest.raises(ValueError, match=match):
        hypergrad.tower(problem(loss), SCALED, lambda k: optim.sgd(k["rate"]))
    towered = hypergrad.tower(problem(loss), H, lambda k: optim.sgd(k["rate"]))
    with pytest.raises(ValueError, match=match):
        hypergrad.Reverse(3).init(towered, {"rate": torch.tensor(0.1)})


@pytest.mark.parametrize("loss", [inside, last, ctc], ids=lambda f: f.__name__)
def test_implicit_needs_the_hessian(loss) -> None:
    with pytest.raises(ValueError, match=r"^reverse mode needs operators with"):
        hypergrad.Implicit(4).init(problem(loss), SCALED)


@pytest.mark.parametrize("loss", [inside, last], ids=lambda f: f.__name__)
def test_forward_names_what_a_function_lacks(loss) -> None:
    with pytest.raises(ValueError, match=r"^Forward needs .*setup_context.*Reverse$"):
        hypergrad.Forward(4).init(problem(loss), H)


@pytest.mark.parametrize("loss", [inside, last, dirichlet, ctc, cdist])
def test_evolution_needs_no_derivative(loss) -> None:
    es = hypergrad.ES(2, 0.1, 2, vectorized=False)
    assert hypergrad.hypergradient(problem(loss), H, es).grads["lr"].isfinite()
