"""Plain runs: the closed form, and no graph that outlives them."""

import pytest
import torch
from torch import Tensor

from raymeta._tree import detach
from raymeta.optim import sgd
from raymeta.outer.report import plain_run
from raymeta.problem import descent
from raymeta.tasks import Quadratic

pytestmark = pytest.mark.usefixtures("float64")


def test_a_plain_run_is_the_closed_form():
    task = Quadratic()
    hparams = {"lr": torch.tensor(0.08), "momentum": torch.tensor(0.4)}
    state, value = plain_run(task.sample(3), hparams, 11)
    truth, _ = task.closed_form(0.08, 0.4, 11, task.start(3))
    assert value == pytest.approx(truth, rel=1e-12)
    assert not state.params["w"].requires_grad


def test_a_plain_run_keeps_no_graph_of_weights_that_require_one():
    net = torch.nn.Linear(2, 1)
    x = torch.ones(3, 2)
    scale = torch.nn.Parameter(torch.ones(()))

    def loss(params, *_) -> Tensor:
        return (scale * torch.func.functional_call(net, params, (x,))).square().mean()

    problem = descent(
        init_params=lambda hparams: dict(net.named_parameters()),
        inner_loss=loss,
        outer_loss=loss,
        optimizer=lambda hparams: sgd(hparams["lr"]),
    )
    hparams = {"lr": torch.tensor(0.1)}
    state, _ = plain_run(problem, hparams, 3)
    assert not any(p.requires_grad for p in state.params.values())
    # Nor does one grow on the way.
    state = problem.step(detach(problem.init(hparams)), hparams, problem.batch(0))
    assert not any(p.requires_grad for p in state.params.values())
