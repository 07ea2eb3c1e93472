"""torch's forward derivatives are compared with its reverse ones before step 1."""

import pytest
import torch
from torch import Tensor

from raymeta import descent, optim
from raymeta._tree import tree_leaves
from raymeta.hypergrad import Forward, Reverse
from raymeta.problem import BilevelProblem

pytestmark = pytest.mark.usefixtures("float64")
H = {"lr": torch.tensor(0.1, dtype=torch.float64)}


def problem_of(loss) -> BilevelProblem:
    w = torch.tensor([[1.0, 0.3, 0.1], [0.2, 1.5, 0.4], [0.1, 0.3, 0.8]])
    return descent(
        init_params=lambda h: {"w": w.double()},
        inner_loss=lambda params, h, batch: loss(params["w"]),
        outer_loss=lambda params, h: params["w"].square().sum(),
        optimizer=lambda h: optim.sgd(h["lr"]),
    )


def product(w: Tensor) -> Tensor:
    """A product whose forward derivative within a gradient torch 2.13 has wrong."""
    row = torch.tensor([[0, 0, 0]]).expand(3, 3)
    start = torch.ones(3, 1, dtype=w.dtype)
    return start.scatter_reduce(1, row, w, "prod").sum()


def test_a_wrong_rule_of_torch_is_refused_before_step_1():
    problem = problem_of(product)
    assert Reverse(2).init(problem, H).step == 0
    with pytest.raises(ValueError, match=r"is right, but that of a step differs .*Rev"):
        Forward(2).init(problem, H)


@pytest.mark.parametrize("kind", ["square", "kink", "zero"])
def test_right_rules_are_not(kind):
    losses = {
        "square": lambda w: w.pow(3).sum(),
        "kink": lambda w: (w - 0.3).abs().sum() + (w - 0.1).relu().square().sum(),
        "zero": lambda w: (w - w.detach()).norm() + w.square().sum(),
    }
    rollout = Forward(2).init(problem_of(losses[kind]), H)
    assert all(bool(x.isfinite().all()) for x in tree_leaves(rollout.state))
