"""Descent by evolution strategies: hypergradients estimated without a derivative."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from raymeta.hypergrad import ES, PES, Hypergradient, Rollout
from raymeta.hypergrad.batched_problem import stackable
from raymeta.outer import descend
from raymeta.outer.coordinates import unit_of
from raymeta.outer.evaluator import DIRECT, Evaluator
from raymeta.outer.report import Report
from raymeta.problem import BilevelProblem
from raymeta.search.methods.base import DescentMethod
from raymeta.space import Space
from raymeta.tasks.base import Task
from raymeta.types import Hparams, Tensors

#: Standard deviation of a perturbation, in units of the coordinates in which descents
#: walk (log λ, logit λ, an eighth of a `Real`'s range), and antithetic pairs of them.
SIGMA, PAIRS = 0.1, 4
#: Windows of a run after which the persistent strategy estimates.
WINDOWS = 20


@dataclass(frozen=True)
class Perturbed:
    r"""An evolution strategy whose noise is in the coordinates x of a space.

    $$ \frac{dE}{d\lambda} = \frac{dE}{dx} \Big/ \frac{d\lambda}{dx},\qquad
       \lambda = \lambda(x) $$

    element by element, with dE/dx by `ES` or `PES`. So one σ suits hyperparameters of
    any size. What is perturbed beyond the bounds of the space is moved onto them.

    Attributes:
        steps: training steps of an estimate.
        space: the space that λ is of.
        persistent: whether by `PES`, while training goes on; else by `ES`, over whole
            runs.
        seed: seeds the noise.
        vectorized: see `ES`.
    """

    steps: int
    space: Space
    persistent: bool
    seed: int = 0
    vectorized: bool = True

    @property
    def continues(self) -> bool:
        """Whether training goes on from estimate to estimate."""
        return self.persistent

    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """Training stands at s_0(λ)."""
        return self._strategy.init(problem, hparams)

    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """The strategy's, in natural values."""
        choices = {name: hparams[name] for name in self.space.choices}
        found = self.space.unconstrained(hparams)
        x = {name: value.detach().requires_grad_() for name, value in found.items()}
        hyper, rollout = self._strategy.estimate(
            self._in_coordinates(problem), {**choices, **x}, rollout
        )
        natural = self.space.natural(x)
        slopes = torch.autograd.grad(
            [natural[name] for name in x],
            list(x.values()),
            [torch.ones_like(value) for value in x.values()],
        )
        grads = {
            name: hyper.grads[name] / slope
            for name, slope in zip(x, slopes, strict=True)
        }
        return hyper._replace(grads=grads), rollout

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """The strategy's."""
        return self._strategy.cost(problem, hparams)

    @property
    def _strategy(self) -> ES | PES:
        sigma = {
            name: SIGMA * unit_of(domain)
            for name, domain in self.space.continuous.items()
        }
        kind = PES if self.persistent else ES
        return kind(self.steps, sigma, PAIRS, self.seed, self.vectorized)

    def _in_coordinates(self, problem: BilevelProblem) -> BilevelProblem:
        """The problem, whose λ are coordinates."""

        def at(x: Hparams) -> Hparams:
            coordinates: Tensors = {name: x[name] for name in self.space.continuous}
            return {**x, **self.space.natural(self.space.project(coordinates))}

        return replace(
            problem,
            init=lambda x: problem.init(at(x)),
            step=lambda state, x, batch: problem.step(state, at(x), batch),
            outer_loss=lambda state, x: problem.outer_loss(state, at(x)),
        )


@dataclass(frozen=True)
class Evolution(DescentMethod):
    """Descends by an evolution strategy; where `vmap` refuses, run by run.

    Attributes:
        name: name of the method.
        persistent: whether by `PES`, after every T/20 steps while training goes on;
            else by `ES`, with one hyper-step per run.

    Source: Salimans et al. 2017 (ES); Vicol et al. 2021 (PES).
    """

    name: str
    persistent: bool

    @property
    def summary(self) -> str:
        """What it does, in one line: its strategy's claim."""
        strategy = PES if self.persistent else ES
        return inspect.cleandoc(strategy.__doc__ or "").splitlines()[0]

    def min_budget(self, task: Task, problem: BilevelProblem) -> float:
        """Gradient evaluations of one full training run, and those beside it."""
        return descend.run_cost(task, problem, self._estimator(task))

    def sure_budget(self, task: Task, problem: BilevelProblem) -> float:
        """The same, with what leaves the outer loss at the start known."""
        return descend.sure_cost(task, problem, self._estimator(task))

    def reports(
        self,
        task: Task,
        problem: BilevelProblem,
        seed: int,
        budget: float,
        evaluator: Evaluator = DIRECT,
    ) -> Iterator[Report]:
        """Reports of the descent."""
        start = task.space.trim(task.space.initial(device=problem.device))
        vectorized = stackable(problem, [start, start])
        estimator = replace(self._estimator(task), seed=seed, vectorized=vectorized)
        return descend.descend(
            task, problem, estimator, seed=seed, budget=budget, evaluator=evaluator
        )

    def _estimator(self, task: Task) -> Perturbed:
        window = max(1, task.horizon // WINDOWS) if self.persistent else task.horizon
        space = task.space.at(task.space.initial())
        return Perturbed(window, space, self.persistent)
