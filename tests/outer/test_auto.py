"""What is chosen where nothing is said."""

import logging

import pytest
import torch

from raymeta import optimize
from raymeta.hypergrad import Checkpointed, Reverse
from raymeta.outer import auto
from raymeta.outer.auto import Auto
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.evaluator import DIRECT
from raymeta.outer.offline import OfflineDescent
from raymeta.outer.surrogate import SurrogateDescent
from raymeta.problem import BilevelProblem, no_data
from raymeta.space import Positive, Space

pytestmark = pytest.mark.usefixtures("float64")


class Rounded(torch.autograd.Function):
    """A function whose derivative autograd is not given."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g


class Decay:
    """w_t+1 = w_t - η_t ∇f: as many rates as are asked for."""

    name, horizon, budget = "decay", 8, 8 * 40.0

    def __init__(self, count, once=False):
        self.count, self.once = count, once

    @property
    def space(self):
        return Space(lr=Positive(0.05, low=1e-3, high=1.0, shape=(self.count,)))

    def sample(self, seed):
        def step(w, hparams, batch):
            with torch.enable_grad():
                at = w if w.requires_grad else w.detach().requires_grad_()
                inner = (Rounded.apply(at) if self.once else at).square().sum()
                (slope,) = torch.autograd.grad(inner, at, create_graph=True)
            return w - hparams["lr"].mean() * slope

        return BilevelProblem(
            init=lambda hparams: torch.ones(100),
            step=step,
            outer_loss=lambda w, hparams: w.square().sum(),
            batch=no_data,
        )


def chosen(task):
    problem = task.sample(0)
    return Auto().descent(
        task,
        {
            "problem": problem,
            "coordinates": Coordinates(task.space),
            "horizon": task.horizon,
            "budget": task.budget,
            "seed": 0,
            "hyper_lr": None,
            "evaluator": DIRECT,
        },
    )


@pytest.mark.parametrize(
    ("count", "kind"),
    [(1, SurrogateDescent), (20, SurrogateDescent), (21, OfflineDescent)],
)
def test_a_surrogate_sees_few_hyperparameters_and_steps_are_taken_in_many(count, kind):
    descent = chosen(Decay(count))
    assert type(descent) is kind
    assert descent.estimator == Reverse(8)


def test_a_graph_without_room_is_recomputed(monkeypatch):
    monkeypatch.setattr(auto, "device_memory", lambda device: 10_000)
    assert chosen(Decay(2)).estimator == Checkpointed(8)


def test_what_cannot_be_differentiated_twice_is_searched_by_values(caplog):
    task = Decay(2, once=True)
    with caplog.at_level(logging.WARNING):
        descent = chosen(task)
    assert not descent.differentiable
    assert "by values alone" in caplog.text
    result = optimize(task, progress=False)
    assert result.outer_loss < 1e-3 * result.start_loss


def test_many_hyperparameters_without_hypergradients_are_refused():
    with pytest.raises(ValueError, match="once_differentiable"):
        chosen(Decay(40, once=True))


def test_it_is_what_optimize_does_and_has_a_name():
    default = optimize(Decay(3), progress=False)
    named = optimize(Decay(3), "auto", progress=False)
    assert default.method == named.method == "Auto"
    assert default.frame["outer_loss"].equals(named.frame["outer_loss"])
    with pytest.raises(ValueError, match="auto"):
        optimize(Decay(3), "aut")
