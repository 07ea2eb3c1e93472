"""What is chosen where nothing is said."""

import logging

import pytest
import torch

from raymeta import optimize
from raymeta.hypergrad import Checkpointed, Reverse
from raymeta.outer import auto
from raymeta.outer.auto import Auto
from raymeta.outer.descend import descend
from raymeta.outer.evaluator import DIRECT
from raymeta.outer.offline import OfflineDescent
from raymeta.outer.surrogate import SurrogateDescent
from raymeta.problem import BilevelProblem, no_data
from raymeta.space import Choice, Positive, Real, Space

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
        result = optimize(task, progress=False)
    assert caplog.text.count("by values alone") == 1
    assert "once_differentiable" in caplog.text
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


class Valleys:
    """E = |x - c|²/2 + d, where c and d depend on options, and y counts in one only."""

    name, horizon, budget = "valleys", 4, 4 * 30.0
    CENTRES = {"left": (-2.0, 1.0), "right": (2.0, 0.0), "middle": (0.0, 4.0)}  # noqa: RUF012

    space = Space(
        x=Real(0.5, low=-4.0, high=4.0, shape=(2,)),
        y=Real(1.5, low=0.0, high=2.0),
        side=Choice(tuple(CENTRES)),
        half=Choice((2, 4)),
    )

    def sample(self, seed):
        return self.sample_for(seed, {"side": "left", "half": 2})

    def sample_for(self, seed, choices):
        centre, depth = self.CENTRES[choices["side"]]

        def outer_loss(x, h):
            more = (h["y"] - 1).square() if choices["side"] == "right" else 0.0
            return (x - centre).square().sum() / h["half"] + depth + more

        return BilevelProblem(
            init=lambda h: torch.zeros(2),
            step=lambda x, h, batch: x + h["x"] / self.horizon,
            outer_loss=outer_loss,
            batch=no_data,
            outer_cost=1.0,
        )


def test_options_are_searched_and_what_they_use_is_learnt():
    """The least E of the options is 1, 0 and 4, of which the last is best at first."""
    result = optimize(Valleys(), progress=False, seed=3)
    assert result.start_loss == pytest.approx(2.5**2 + 1)
    assert result.hparams["side"] == "right"
    assert result.outer_loss < 0.3
    assert result.reports[-1].gradient_evals <= Valleys.budget
    unused = [r for r in result.reports if r.hparams["side"] != "right"]
    assert unused
    assert not any("y" in r.hparams for r in unused)


def test_options_alone_are_searched_until_all_were_seen():
    class Options(Valleys):
        space = Space(side=Choice(("left", "right", "middle")), half=Choice((2, 4)))

        def sample_for(self, seed, choices):
            value = self.CENTRES[choices["side"]][1] + 1 / choices["half"]
            return BilevelProblem(
                init=lambda h: torch.zeros(()),
                step=lambda x, h, batch: x,
                outer_loss=lambda x, h: x + value,
                batch=no_data,
            )

    result = optimize(Options(), progress=False)
    assert result.hparams == {"side": "right", "half": 4}
    assert result.outer_loss == pytest.approx(0.25)
    kinds = {tuple(r.hparams.items()) for r in result.reports}
    assert len(kinds) == 6


@pytest.mark.parametrize("count", [3, 30])
def test_from_known_points_it_begins_at_the_best_and_looks_at_no_design(count):
    """With few hyperparameters and many: λ = 0.2 leaves less than 0.05 and 0.1."""
    task = Decay(count)
    problem = task.sample(0)

    def point(lr):
        return {f"lr[{i}]": lr for i in range(count)}

    def value(lr):
        return 100 * (1 - 2 * lr) ** (2 * 8)

    known = [(point(lr), value(lr)) for lr in (0.05, 0.2, 0.1)]
    settings = {"seed": 0, "budget": 60.0, "known": known}
    reports = list(descend(task, problem, Auto(), **settings))
    start = task.space.initial_point()
    assert all(r.hparams != pytest.approx(start) for r in reports)
    if count > 20:  # the first estimate is at the best
        assert reports[0].hparams == pytest.approx(point(0.2))
        assert reports[0].outer_loss == pytest.approx(value(0.2))
    assert min(r.outer_loss for r in reports) < value(0.2)
    assert reports[-1].gradient_evals <= 60
