"""Hypergradients in half precision are held against those in float32."""

import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import raymeta
from raymeta.hypergrad import Reverse, hypergradient
from raymeta.modules.functional import full_precision
from raymeta.outer.auto import Auto
from raymeta.outer.evaluator import Evaluator
from raymeta.outer.precision import noise
from raymeta.search.plan import make_plan


@dataclass
class Half:
    """A task in half precision: by autocast, or by its weights."""

    autocast: torch.dtype | None = torch.bfloat16
    dtype: torch.dtype = torch.float32
    offset: float = 0.0
    name: str = "half"
    horizon: int = 16
    budget: float = 200.0

    @property
    def space(self):
        return raymeta.Space(lr=raymeta.Positive(0.1), momentum=raymeta.Unit(0.5))

    def sample(self, seed):
        torch.manual_seed(seed)
        x = torch.randn(24, 4, dtype=self.dtype)
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

        def loss(outputs, y):  # beside a large offset, half precision sees no slope
            return F.mse_loss(outputs + self.offset, y + self.offset)

        return raymeta.module_problem(
            net.to(self.dtype),
            loss=F.mse_loss if self.offset == 0 else loss,
            train=(x[:16], x[:16, :1]),
            val=(x[16:], x[16:, :1]),
            optimizer=lambda h: raymeta.optim.sgd(h["lr"], momentum=h["momentum"]),
            autocast=self.autocast,
        )


def told(task, estimator) -> str | None:
    return noise(task, task.sample(0), estimator, Evaluator())


@pytest.mark.parametrize("estimator", [Reverse(16), Auto()])
def test_what_agrees_is_not_told(estimator):
    assert told(Half(), estimator) is None
    assert told(Half(autocast=None), estimator) is None
    assert told(Half(autocast=None, dtype=torch.bfloat16), estimator) is None


def test_noise_is_told_with_a_remedy():
    task = Half(autocast=None, dtype=torch.bfloat16, offset=1e3)
    message = r"half: hypergradients in bfloat16 are noise: the first one, of 2 steps"
    with pytest.warns(UserWarning, match=rf"{message}.*float32; train in float32"):
        raymeta.optimize(task, Reverse(16), progress=False)


def test_a_comparison_tells_whose_hypergradients_are_noise():
    task = Half(autocast=None, dtype=torch.bfloat16, offset=1e3)
    methods = ["long_term", "adam", "auto", "short_term"]
    lines = make_plan(task, methods, None, 1).unsure()
    told = "on half: hypergradients in bfloat16 are noise: the first one, of"
    assert lines[0].startswith(f"long_term, auto {told} 2 steps")
    assert all(told in line and "adam" not in line for line in lines)
    assert make_plan(Half(autocast=None), methods, None, 1).unsure() == []


def test_full_precision_is_that_without_autocast():
    hparams = {"lr": torch.tensor(0.1), "momentum": torch.tensor(0.5)}
    plain = hypergradient(Half(autocast=None).sample(0), hparams, Reverse(4))
    mixed = Half().sample(0)
    with full_precision():
        wide = hypergradient(mixed, hparams, Reverse(4))
    half = hypergradient(mixed, hparams, Reverse(4))
    assert torch.equal(wide.grads["lr"], plain.grads["lr"])
    assert not torch.equal(half.grads["lr"], plain.grads["lr"])


def test_tasks_in_float32_are_not_looked_at(monkeypatch):
    monkeypatch.setattr(Evaluator, "once", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert told(Half(autocast=None), Reverse(16)) is None
