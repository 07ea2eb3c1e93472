"""The first look at a task: a line that costs no training, and ends in a verdict."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raymeta import optimize, tasks
from raymeta.modules import module_problem
from raymeta.optim import sgd
from raymeta.outer import first_look as module
from raymeta.outer.cast_problem import cast_problem
from raymeta.outer.first_look import first_look
from raymeta.space import Choice, Positive, Space
from raymeta.tasks import Quadratic


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of two layers with an activation between."""

    activation: type[nn.Module] = nn.GELU
    size: int = 200
    holdout: float | None = None
    horizon: int = 10
    budget: float = 100.0
    name: str = "network"

    @property
    def space(self):
        return Space(lr=Positive(0.1), momentum=Positive(0.5))

    def sample(self, seed):
        x = torch.randn(30 + self.size, 5, generator=torch.Generator().manual_seed(0))
        y = (x[:, 0] > 0).long()
        return module_problem(
            nn.Sequential(nn.Linear(5, 8), self.activation(), nn.Linear(8, 2)),
            loss=F.cross_entropy,
            train=(x[:30], y[:30]),
            val=(x[30:], y[30:]),
            holdout=self.holdout,
            optimizer=lambda h: sgd(h["lr"], momentum=h["momentum"]),
        )


def look(task):
    return first_look(task, task.sample(0))


class Drawn(Quadratic):
    """A step that draws what nothing seeds."""

    def sample(self, seed):
        problem = super().sample(seed)

        def step(state, hparams, batch):
            state = problem.step(state, hparams, batch)
            return state._replace(params={"w": state.params["w"] + torch.randn(3)})

        return replace(problem, step=step)


class Raising(Quadratic):
    """A step that raises."""

    def sample(self, seed):
        return replace(super().sample(seed), step=lambda s, h, b: s.nothing)


class Discrete(Quadratic):
    """Nothing to descend in."""

    @property
    def space(self):
        return Space(lr=Choice([0.1, 0.2]))


@pytest.mark.parametrize(
    ("task", "line"),
    [
        (
            Quadratic(),
            "quadratic at first look (2 hyperparameters, 20 steps in float32; slopes: "
            "raymeta diagnose --task quadratic): trust",
        ),
        (
            Network(),
            "network at first look (2 hyperparameters, 200 validation examples, 10 "
            "steps in float32; slopes: raymeta diagnose): trust",
        ),
        (
            Network(activation=nn.ReLU),
            ": trust with care: put GELU or SiLU for ReLU at 1, whose derivative jumps",
        ),
        (
            Network(size=39),
            "): trust with care: fewer than 20 validation examples for each "
            "hyperparameter may be overfitted, see it with holdout=0.3",
        ),
        (Network(size=39, holdout=0.3), "slopes: raymeta diagnose): trust"),
        (
            Drawn(),
            "): use search: a step is another one each time it is taken: seed what it "
            "draws by batch.index",
        ),
        (Discrete(), "): use search: no hyperparameter is continuous"),
        (Raising(), "'TrainState' object has no attribute 'nothing'"),
    ],
)
def test_it_ends_in_a_verdict_and_what_to_change(task, line):
    seen = look(task)
    assert seen.endswith(line)
    assert "raymeta diagnose" in seen
    assert "\n" not in seen


def test_a_graph_that_memory_does_not_hold_asks_for_checkpoints(monkeypatch):
    """A step of 200 examples in 8 units keeps at least their activations."""
    kept = module.step_graph_bytes(Network().sample(0), Network().space.initial())
    assert 30 * 8 * 4 < kept < 1e5
    assert module.device_memory(torch.device("cpu")) > 2**28
    monkeypatch.setattr(module, "device_memory", lambda device: 10 * kept / module.ROOM)
    assert look(Network()).endswith(": trust")
    monkeypatch.setattr(module, "device_memory", lambda device: 9 * kept / module.ROOM)
    assert "use checkpointed, or a shorter horizon" in look(Network())


def test_half_precision_is_told():
    class Half(Quadratic):
        def sample(self, seed):
            problem = super().sample(seed)
            return cast_problem(problem, torch.bfloat16, torch.float32)

    assert look(Half()).endswith(
        "20 steps in bfloat16; slopes: raymeta diagnose --task quadratic): trust with "
        "care: slopes of E are rough in torch.bfloat16: train in float32"
    )


def test_it_is_the_first_line_of_an_optimization(capsys):
    optimize("quadratic", "reverse", budget=150)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        first_look(Quadratic(), Quadratic().sample(0)),
        "quadratic by Reverse, 150 gradient evaluations",
    ]
    optimize("quadratic", "reverse", budget=150, progress=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", sorted({"digits", "quadratic", "throw", "char-gru"}))
def test_shipped_tasks_are_trusted(name):
    assert look(tasks.get(name)).endswith(": trust")
