"""A task with a closed form, and methods that do as they are told.

The task: w' = w - lr (w - a) from w = 0, so w_T = a (1 - (1 - lr)^T), the outer loss is
a² (1 - lr)^(2T), and the test loss a (1 - lr)^T in absolute value.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from ray.tune import TuneConfig
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search import Searcher

from raymeta.optim import sgd
from raymeta.outer import descend
from raymeta.outer.report import Report
from raymeta.problem import BilevelProblem, descent
from raymeta.search.methods import DescentMethod, SearchMethod
from raymeta.space import Choice, Positive, Space


@dataclass(frozen=True, kw_only=True)
class Bowl:
    """The task.

    Attributes:
        nan_above: learning rate above which the outer loss is NaN.
        raise_above: learning rate above which a step raises ValueError.
        step_s: seconds that a step takes at least.
        outer_cost: so that an outer loss without gradient costs 1.
    """

    name: str = "bowl"
    horizon: int = 9
    budget: float = 100.0
    nan_above: float = math.inf
    raise_above: float = math.inf
    step_s: float = 0.0
    outer_cost: float = 3.0

    @property
    def space(self) -> Space:
        return Space(lr=Positive(0.1, low=0.01, high=1.9), kind=Choice(["plain", None]))

    def target(self, seed: int) -> float:
        return 1.0 + seed

    def sample(self, seed: int) -> BilevelProblem:
        target = torch.tensor(self.target(seed), dtype=torch.float64)

        def inner_loss(params, hparams, batch):
            if self.step_s:
                time.sleep(self.step_s)
            if float(hparams["lr"].detach()) > self.raise_above:
                raise ValueError("boom,\nit went")
            return (params["w"] - target) ** 2 / 2

        def outer_loss(params, hparams):
            loss = (params["w"] - target) ** 2
            return (
                loss * math.nan
                if float(hparams["lr"].detach()) > self.nan_above
                else loss
            )

        return descent(
            init_params=lambda hparams: {"w": torch.zeros((), dtype=torch.float64)},
            inner_loss=inner_loss,
            outer_loss=outer_loss,
            optimizer=lambda hparams: sgd(lr=hparams["lr"].double()),
            outer_cost=self.outer_cost,
            metrics=lambda params, hparams: {"loss": (params["w"] - target).abs()},
        )

    def outer(self, lr: float, seed: int, steps: int | None = None) -> float:
        """The outer loss after some steps, the horizon by default."""
        lr = float(torch.tensor(lr))  # trials train in single precision
        return (self.target(seed) * (1 - lr) ** (steps or self.horizon)) ** 2


@dataclass(frozen=True, kw_only=True)
class Deadly(Bowl):
    """The first worker that comes here dies."""

    grave: Path
    driver: int

    def sample(self, seed):
        if os.getpid() != self.driver and not self.grave.exists():
            self.grave.touch()
            os._exit(1)
        return super().sample(seed)


@dataclass(frozen=True, kw_only=True)
class Noted(Bowl):
    """Every step that anybody takes is a byte in a file."""

    notes: Path

    def sample(self, seed):
        problem = super().sample(seed)

        def step(state, hparams, batch):
            with self.notes.open("ab") as file:
                file.write(b".")
            return problem.step(state, hparams, batch)

        return replace(problem, step=step)


@dataclass(frozen=True, kw_only=True)
class Stuck(Bowl):
    """Workers stay here for long, and say so by a file."""

    arrived: Path
    driver: int

    def sample(self, seed):
        if os.getpid() != self.driver:
            self.arrived.touch()
            time.sleep(300)
        return super().sample(seed)


class Unsendable(str):
    """A string that holds a lock, so to say."""

    __slots__ = ()

    def __reduce__(self):
        raise TypeError("cannot pickle a lock")


@dataclass(frozen=True)
class Walk(DescentMethod):
    """A descent along given learning rates, one full run each.

    A None raises RuntimeError.
    """

    rates: tuple[float | None, ...] = (0.1, 0.2, 0.3)
    name: str = "walk"

    def min_budget(self, task: Bowl, problem: BilevelProblem) -> float:
        return task.horizon + problem.outer_cost / 3

    def reports(
        self, task: Bowl, problem: BilevelProblem, seed: int, budget: float, _
    ) -> Iterator[Report]:
        spent = 0.0
        for step, rate in enumerate(self.rates):
            if rate is None:
                raise RuntimeError("lost the way")
            point = {"lr": rate, "kind": "plain"}
            for report in descend.evaluate(problem, task.space, point, (task.horizon,)):
                if spent + report.gradient_evals > budget:
                    return
                spent += report.gradient_evals
                yield report._replace(outer_step=step + 1, gradient_evals=spent)


class ListSearcher(Searcher):
    """Suggests what it was given and remembers what it is told."""

    def __init__(self, points: list[dict]) -> None:
        super().__init__()
        self.points, self.told = list(points), []

    def set_search_properties(self, metric, mode, config, **spec) -> bool:
        self.space = config
        return True

    def suggest(self, trial_id):
        return self.points.pop(0) if self.points else Searcher.FINISHED

    def on_trial_result(self, trial_id, result):
        self.told.append((trial_id, "result", result["outer_loss"]))

    def on_trial_complete(self, trial_id, result=None, error=False):
        value = "error" if error else result and result["outer_loss"]
        self.told.append((trial_id, "complete", value))


@dataclass(frozen=True)
class Listed(SearchMethod):
    """Black-box trials at given learning rates, with or without halving at a rung."""

    rates: tuple[float, ...]
    rung: int | None = None
    at_once: int = 1
    name: str = "listed"
    hook: Callable[[Searcher], None] = lambda searcher: None

    def tune_config(self, task: Bowl, seed: int) -> TuneConfig:
        searcher = ListSearcher([{"lr": r, "kind": "plain"} for r in self.rates])
        self.hook(searcher)
        scheduler = None
        if self.rung is not None:
            scheduler = AsyncHyperBandScheduler(
                time_attr="inner_steps",
                max_t=task.horizon,
                grace_period=self.rung,
                reduction_factor=2,
            )
        return TuneConfig(
            metric="outer_loss",
            mode="min",
            search_alg=searcher,
            scheduler=scheduler,
            max_concurrent_trials=self.at_once,
        )

    def rungs(self, task: Bowl) -> tuple[int, ...]:
        if self.rung is None:
            return (task.horizon,)
        return (self.rung, task.horizon)
