"""Tuning-free training: what a task comes to without any search of its settings."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam
from torch.optim.lr_scheduler import LambdaLR

from raymeta import online
from raymeta._tree import detach
from raymeta.hypergrad.base import plain_cost
from raymeta.hypergrad.used_hparams import Read
from raymeta.outer.budget import BudgetMeter
from raymeta.outer.evaluator import DIRECT, Evaluator, Trained
from raymeta.outer.report import Report, outer_value
from raymeta.problem import BilevelProblem, Descent, TrainState
from raymeta.results.schema import TUNING_FREE
from raymeta.search.methods.base import DescentMethod
from raymeta.space import Choice, Point
from raymeta.tasks.base import Task
from raymeta.types import Hparams

#: Share of the steps in which the learning rate rises linearly.
WARMUP = 0.05
#: Share of the steps in which it falls after it was constant.
COOLDOWN = 0.2


def cosine(t: int, steps: int) -> float:
    r"""$\frac12 (1 + \cos \pi \tau)$ after the warm-up; τ goes from 0 to 1."""
    warm = math.ceil(WARMUP * steps)
    if t < warm:
        return (t + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (t - warm) / max(steps - warm, 1)))


def wsd(t: int, steps: int) -> float:
    r"""Warm-up, a stable stretch, and decay by $1 - \sqrt\tau$."""
    warm, left = math.ceil(WARMUP * steps), COOLDOWN * steps
    return min((t + 1) / warm, 1.0) * (1 - max(0.0, 1 - (steps - t) / left) ** 0.5)


def constant(t: int, steps: int) -> float:
    """No schedule."""
    return 1.0


@dataclass(frozen=True)
class TuningFree(DescentMethod):
    """Training once by an optimizer of torch, at settings that no task was asked about.

    The budget that it spends is one run. The optimizer takes the place of the task's
    own in its `raymeta.problem.Descent`, so the hyperparameters that this alone
    reads, learning rates, momenta and weight decays, are overridden: they are NaN in
    the frame, a `Choice` stays as it was. What the task reads elsewhere, as penalties
    or weights of examples, is at its initial value. A task that trains by no gradient,
    or whose own optimizer reads no hyperparameter, has nothing that this would spare:
    it is refused.

    Attributes:
        name: name of the method.
        optimizer: a class of `torch.optim`, or of that interface, or where it is to be
            imported from, such as "package.Class"; it is given the weights.
        schedule: (t, T) -> what multiplies the learning rate in step t of T.
        settings: its arguments, (name, value) each; its own defaults otherwise.

    Source: Hägele et al. 2024 (arXiv 2405.18392), for `wsd` and its cooldown of 20 %;
    Loshchilov & Hutter 2017, for `cosine`, without restarts. Learning rates are those
    of torch.
    """

    name: str
    optimizer: type[torch.optim.Optimizer] | str
    schedule: Callable[[int, int], float] = constant
    settings: tuple[tuple[str, Any], ...] = field(default=())

    @property
    def family(self) -> str:
        """The string "tuning-free"."""
        return TUNING_FREE

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        how = self.schedule.__name__
        schedule = "" if self.schedule is constant else f", schedule {how}"
        own = ", ".join(f"{name}={value}" for name, value in self.settings)
        given = f"with {own}" if own else "at its defaults"
        return f"One run by {self._class_name} {given}{schedule}."

    @property
    def _class_name(self) -> str:
        whole = self.optimizer
        return whole.rpartition(".")[2] if isinstance(whole, str) else whole.__name__

    def min_budget(self, task: Task, problem: BilevelProblem) -> float:
        """Gradient evaluations of one full training run.

        Raises:
            ValueError: the task trains by no gradient, or its optimizer reads no
                hyperparameter; the optimizer refuses the weights.
        """
        hparams = task.space.trim(task.space.initial(device=problem.device))
        step = self._descent(task, problem)
        if not _overridden(step, problem, hparams):
            raise ValueError(
                f"{self.name!r} trains by an optimizer of its own, but that of task "
                f"{task.name!r} reads no hyperparameter that this would spare: take a "
                "search or a descent"
            )
        self._made(problem.init(hparams).params)
        return plain_cost(problem, task.horizon)

    def reports(
        self,
        task: Task,
        problem: BilevelProblem,
        seed: int,
        budget: float,
        evaluator: Evaluator = DIRECT,
    ) -> Iterator[Report]:
        """The one report, of the whole run."""
        hparams = task.space.trim(task.space.initial(device=problem.device))
        step, steps = self._descent(task, problem), task.horizon

        def train() -> Trained:
            state = self._trained(step, problem, hparams, steps)
            return state, [outer_value(problem, state, hparams)]

        state, (value,) = evaluator.run(hparams, steps, train)
        meter = BudgetMeter(budget)
        meter.charge(plain_cost(problem, steps))
        point = _without(task, _overridden(step, problem, hparams))
        yield meter.report(
            steps, value, point, complete=True, state=state, schedule=[(steps, point)]
        )

    def _descent(self, task: Task, problem: BilevelProblem) -> Descent:
        if isinstance(problem.step, Descent):
            return problem.step
        raise ValueError(
            f"{self.name!r} trains by an optimizer of its own, but task "
            f"{task.name!r} has a step that is no raymeta.problem.Descent: make it "
            "with module_problem or descent, or take a search"
        )

    def _trained(
        self, step: Descent, problem: BilevelProblem, hparams: Hparams, steps: int
    ) -> TrainState:
        """s_T; the memory of the task's own optimizer is as it began."""
        first: TrainState = detach(problem.init(hparams))
        optimizer, weights = self._made(first.params)
        scheduler = LambdaLR(optimizer, lambda t: self.schedule(t, steps))
        buffers = first.buffers
        for t in range(steps):
            at = {name: w.detach() for name, w in weights.items()}
            grads, buffers = step.gradient(at, buffers, hparams, problem.batch(t))
            for name, w in weights.items():
                w.grad = grads[name]
            optimizer.step()
            scheduler.step()
        self._end(optimizer)
        params = {name: w.detach() for name, w in weights.items()}
        return first._replace(params=params, buffers=buffers)

    def _made(
        self, params: dict[str, Tensor]
    ) -> tuple[torch.optim.Optimizer, dict[str, nn.Parameter]]:
        """The optimizer, and the weights that it steps in place."""
        weights = {name: nn.Parameter(w.detach().clone()) for name, w in params.items()}
        make = self.optimizer
        if isinstance(make, str):
            make = resolve_name(make)
        return make(list(weights.values()), **dict(self.settings)), weights

    def _end(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave in the weights what is to be evaluated; nothing to do by default."""


@dataclass(frozen=True)
class ScheduleFree(TuningFree):
    """Training once without a schedule, by weights that are averaged over the run.

    Otherwise as `TuningFree`: see there which hyperparameters are overridden.

    Source: Defazio et al. 2024 (arXiv 2405.15682), by the authors' own package.
    """

    requires: ClassVar[tuple[str, ...]] = ("schedulefree>=1.4",)

    def _made(
        self, params: dict[str, Tensor]
    ) -> tuple[torch.optim.Optimizer, dict[str, nn.Parameter]]:
        optimizer, weights = super()._made(params)
        optimizer.train()  # type: ignore[attr-defined]
        return optimizer, weights

    def _end(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.eval()  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Prodigy(TuningFree):
    """Training once by Adam with an estimate of how far the minimum is as its step.

    Otherwise as `TuningFree`: see there which hyperparameters are overridden.

    Source: Mishchenko & Defazio 2024 (arXiv 2306.06101), by the authors' own package.
    """

    requires: ClassVar[tuple[str, ...]] = ("prodigyopt>=1.1",)


def _overridden(step: Descent, problem: BilevelProblem, hparams: Hparams) -> set[str]:
    """The hyperparameters that a task's optimizer reads, and nothing else of it."""
    of_rule, elsewhere = Read(hparams), Read(hparams)
    step.rule(of_rule)
    state: TrainState = detach(problem.init(hparams))
    params = state.params
    with torch.random.fork_rng([]):
        _, buffers = step.gradient(params, state.buffers, elsewhere, problem.batch(0))
        problem.outer_loss(state._replace(buffers=buffers), elsewhere)
    return of_rule.names & set(hparams) - elsewhere.names


def _without(task: Task, names: set[str]) -> Point:
    """The initial point, in which what is overridden has no value."""
    point, domains = task.space.initial_point(), task.space.flat_domains()
    return {
        flat: math.nan
        if flat.partition("[")[0] in names and not isinstance(domains[flat], Choice)
        else value
        for flat, value in point.items()
    }


# One line each. The learning rate of those that are calibrated is the best of .001 to
# .1, the largest that was tried, in the geometric mean over the tuning list
# (jobs/experiments/tuning) on seeds 0 to 2: of runs of 40 to 100 steps.
_CALIBRATED = (("lr", 0.1),)
_SCHEDULE_FREE = "schedulefree.AdamWScheduleFree"
_PRODIGY = "prodigyopt.Prodigy"
# NAdamW of AlgoPerf's self-tuning baseline (arXiv 2306.07179). Dozat's momentum decay
# is no part of it: a large one is none.
_ALGOPERF = (
    ("lr", 0.0017486387539278373),
    ("betas", (1 - 0.06733926164, 0.9955159689799007)),
    ("weight_decay", 0.08121616522670176),
    ("decoupled_weight_decay", True),
    ("momentum_decay", 1e6),
)

#: Optimizers by name, at their published defaults and calibrated.
RULES: dict[str, TuningFree] = {
    rule.name: rule
    for rule in (
        TuningFree("sgd", SGD),
        TuningFree("adam", Adam),
        TuningFree("adamw_wsd", AdamW, wsd),
        TuningFree("adamw_wsd_calibrated", AdamW, wsd, _CALIBRATED),
        TuningFree("adamw_cosine", AdamW, cosine),
        TuningFree("adam_cosine", Adam, cosine),
        TuningFree("adam_cosine_calibrated", Adam, cosine, _CALIBRATED),
        TuningFree("nadamw_cosine", NAdam, cosine, _ALGOPERF),
        TuningFree("online_adamw", online.AdamW),
        Prodigy("prodigy", _PRODIGY),
        Prodigy("prodigy_cosine", _PRODIGY, cosine),
        ScheduleFree("schedule_free", _SCHEDULE_FREE),
        ScheduleFree("schedule_free_calibrated", _SCHEDULE_FREE, constant, _CALIBRATED),
    )
}
