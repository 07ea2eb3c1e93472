"""Plan of a comparison: what it runs, resolved, checked, and described for later."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any, NamedTuple

from raymeta import tasks as task_registry
from raymeta.errors import said
from raymeta.hypergrad import Estimator
from raymeta.hypergrad.base import plain_cost
from raymeta.hypergrad.used_hparams import require_names
from raymeta.outer.auto import Auto
from raymeta.outer.budget import BudgetMeter
from raymeta.outer.conditions import conditioned
from raymeta.outer.descend import unsure
from raymeta.outer.evaluator import DIRECT
from raymeta.outer.first_look import first_look
from raymeta.outer.flops import step_flops
from raymeta.outer.parallel import Layout, require_parallel
from raymeta.outer.precision import noise
from raymeta.problem import BilevelProblem
from raymeta.search.fairness import first_values
from raymeta.search.methods import (
    DEFAULT,
    METHODS,
    Method,
    SearchMethod,
    missing,
    resolve,
)
from raymeta.search.methods.hybrid import HybridMethod
from raymeta.search.spec import StudySpec
from raymeta.space.choice import without_addresses
from raymeta.tasks.base import Task, budget_of, sampled

Tasks = str | Task | Iterable[str | Task]
Methods = str | Method | Iterable[str | Method]
Values = dict[str, list[float]]

#: Seeds of a comparison at most: each is a study of each method.
MOST_SEEDS = 100_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a comparison runs: every method on every task under every seed.

    Attributes:
        budgets: gradient evaluations per study, by task name.
        skipped: methods that were asked for and cannot run here, with the reason.
        at_once: see `compare`.
        workers_per_trial: likewise.
    """

    tasks: tuple[Task, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    budgets: dict[str, float]
    skipped: dict[str, str] = field(default_factory=dict)
    at_once: int = 1
    workers_per_trial: int = 1

    def study_specs(self) -> list[StudySpec]:
        """Every study. Seeds are paired: one seed is one problem for all methods.

        Raises:
            ValueError: no method fits its task, or a budget is below a full training
                run of them all.
        """
        return self._grid[0]

    def cells(self) -> set[str]:
        """Names of all studies.

        Raises:
            ValueError: see `study_specs`.
        """
        return {str(spec.key) for spec in self.study_specs()}

    def unfit(self) -> dict[tuple[str, str], str]:
        """(task, method) that cannot be compared, with the reason on one line.

        Raises:
            ValueError: see `study_specs`.
        """
        return {pair: misfit.reason for pair, misfit in self._grid[1].items()}

    def unsure(self) -> list[str]:
        """A line for each method that may, for its budget, find worse than the start.

        And for those whose hypergradients are noise in half precision.

        Raises:
            ValueError: see `study_specs`.
        """
        return self._grid[3]

    def first_looks(self) -> list[str]:
        """Of each task a line, see `raymeta.outer.first_look`.

        Raises:
            ValueError: see `study_specs`.
        """
        return self._grid[4]

    def first_values(self) -> dict[str, list[float]]:
        """Of each task, see `fairness.first_values`."""
        return self._grid[2]

    @cached_property
    def _grid(self) -> "_Grid":
        specs: list[StudySpec] = []
        values: Values = {}
        unfit: dict[tuple[str, str], Misfit] = {}
        doubts: list[str] = []
        looks: list[str] = []
        for task in self.tasks:
            budget = self.budgets[task.name]
            if not 0 < budget < math.inf:
                raise ValueError(
                    f"a budget must cover a full training run of task {task.name!r} "
                    f"and end, but got {budget:g} gradient evaluations: give a finite "
                    "number"
                )
            # What is asked of a problem is a property of the task, not of the seed.
            problem = sampled(task, self.seeds[0])
            values[task.name] = first_values(
                problem, task.space.trim(task.space.initial())
            )
            looks.append(first_look(task, problem))
            fit = []
            for method in self.methods:
                if misfit := _misfit(task, method, budget, problem):
                    unfit[task.name, method.name] = misfit
                    continue
                fit.append(method)
                if line := _unsure(task, method, budget, problem):
                    doubts.append(line)
            doubts += _noise(task, fit, problem)
            specs += self._specs_of(task, fit, problem)
        if not specs:
            raise self._nothing_fits(unfit)
        return specs, unfit, values, doubts, looks

    def _specs_of(
        self, task: Task, methods: list[Method], problem: BilevelProblem
    ) -> list[StudySpec]:
        hparams = task.space.trim(task.space.initial())
        flops = step_flops(problem, hparams)
        charges = {
            method.name: method.charges(task, problem)
            for method in methods
            if isinstance(method, SearchMethod)
        }
        descents = {
            method.name: method.descent_cost(task, problem)
            for method in methods
            if isinstance(method, HybridMethod)
        }
        return [
            StudySpec(
                task=task,
                method=method,
                seed=seed,
                budget=self.budgets[task.name],
                charges=charges.get(method.name, ()),
                plain_run=plain_cost(problem, task.horizon),
                descent_run=descents.get(method.name, math.nan),
                flops=flops,
                at_once=self.at_once,
            )
            for seed in self.seeds  # methods vary fastest: workers keep few problems
            for method in methods
        ]

    def _nothing_fits(self, unfit: "dict[tuple[str, str], Misfit]") -> ValueError:
        """Why nothing is left, for the first task."""
        task = self.tasks[0].name
        misfits = {name: m for (of, name), m in unfit.items() if of == task}
        dearest = max(misfits, key=lambda name: misfits[name].least)
        if all(misfit.least for misfit in misfits.values()):
            return ValueError(
                f"a budget must cover a full training run of task {task!r}, but got "
                f"{self.budgets[task]:g} gradient evaluations: give "
                f"{math.ceil(misfits[dearest].least)} or more for {dearest}"
            )
        reasons = "; ".join(f"{name}: {m.reason}" for name, m in misfits.items())
        return ValueError(f"no method fits task {task!r} ({reasons}): add others")

    def require_names(self) -> None:
        """Raise ValueError where a problem asks for what its space does not have."""
        for spec in {spec.task.name: spec for spec in self.study_specs()}.values():
            if math.isnan(spec.flops):  # its step raises
                problem = spec.task.sample(spec.seed)
                if error := _unknown_name(spec.task, problem):
                    raise ValueError(f"task {spec.task.name!r}: {error}")

    def settings(self) -> dict[str, Any]:
        """What must be the same to continue a comparison; JSON-serializable."""
        return {
            "tasks": {task.name: _describe_task(task) for task in self.tasks},
            "methods": {method.name: _describe(method) for method in self.methods},
            "seeds": list(self.seeds),
            "budgets": self.budgets,
            "at_once": self.at_once,
            "workers_per_trial": self.workers_per_trial,
        }


class Misfit(NamedTuple):
    """Why a method is not compared on a task.

    Attributes:
        reason: why, on one line.
        least: gradient evaluations of one run that the budget does not cover; 0 where
            the method refuses the task.
    """

    reason: str
    least: float = 0.0


#: What runs, what does not, first values, whose results are in doubt, and a first look
#: at each task.
_Grid = tuple[
    list[StudySpec], dict[tuple[str, str], Misfit], Values, list[str], list[str]
]


def values_of(task: Task, seed: int) -> list[float]:
    """See `fairness.first_values`."""
    return first_values(sampled(task, seed), task.space.trim(task.space.initial()))


def _misfit(
    task: Task, method: Method, budget: float, problem: BilevelProblem
) -> Misfit | None:
    try:
        least = method.min_budget(task, problem)
    except Exception as raised:
        error: Exception = raised
        if isinstance(raised, KeyError):
            error = _unknown_name(task, problem) or raised
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return Misfit(without_addresses(" ".join(f"{kind}{error}".split())))
    if BudgetMeter(budget).covers(least):
        return None
    return Misfit(
        f"it takes at least {_whole(least)} gradient evaluations, and the budget is "
        f"{budget:,g}",
        least,
    )


def _unsure(task: Task, method: Method, budget: float, problem: BilevelProblem) -> str:
    """Why what a study finds may be worse than its start; "" where it cannot be."""
    sure = method.sure_budget(task, problem)
    if BudgetMeter(budget).covers(sure):
        return ""
    return unsure(task, method.name, budget, sure)


def _noise(task: Task, methods: list[Method], problem: BilevelProblem) -> list[str]:
    """What is to be said of hypergradients in half precision, and of whose."""
    told: dict[Estimator | Auto, str | None] = {}
    whose: dict[str, list[str]] = {}
    for method in methods:
        if (estimator := method.estimator_on(task)) is None:
            continue
        if estimator not in told:
            told[estimator] = noise(task, problem, estimator, DIRECT)
        if (line := told[estimator]) is not None:
            whose.setdefault(line, []).append(method.name)
    return [f"{', '.join(names)} on {line}" for line, names in whose.items()]


def _unknown_name(task: Task, problem: BilevelProblem) -> ValueError | None:
    """Why a problem cannot train: it asks for a name that the space does not have."""
    try:
        require_names(problem, task.space.trim(task.space.initial()))
    except ValueError as error:
        return error
    return None


def _whole(evaluations: float) -> str:
    """Rounded up; a number of astronomical size in short."""
    large = evaluations >= 1e9
    return f"{evaluations:.3g}" if large else f"{math.ceil(evaluations):,}"


def make_plan(
    tasks: Tasks,
    methods: Methods | None,
    budget: float | None,
    seeds: int | Iterable[int],
    at_once: int = 1,
    workers_per_trial: int = 1,
) -> Plan:
    """Resolve and check the arguments of `compare`.

    Raises:
        ValueError: an unknown name, nothing to run, something twice, or none at once;
            trainings that cannot be shared out among the workers of a trial.
    """
    counts = {"at_once": "trials", "workers_per_trial": "processes"}
    for (name, what), given in zip(
        counts.items(), (at_once, workers_per_trial), strict=True
    ):
        if not isinstance(given, Integral) or isinstance(given, bool) or given < 1:
            raise ValueError(
                f"{name} must be a number of {what}, 1 or more, but got {given!r}"
            )
    some_tasks = tuple(task_registry.resolve(task) for task in _listed(tasks))
    some_methods = tuple(resolve(method) for method in _named(methods))
    some_seeds = _as_seeds(seeds)
    _check("tasks", [task.name for task in some_tasks])
    _check("methods", [method.name for method in some_methods])
    _check("seeds", some_seeds)
    budgets = {task.name: budget_of(task, budget) for task in some_tasks}
    if workers_per_trial > 1:
        layout = Layout(int(workers_per_trial))
        for task in some_tasks:
            require_parallel(task, Auto(), layout, some_seeds[0])
    skipped = {
        method.name: f"pip install {' '.join(map(repr, missing(method)))}"
        for method in some_methods
        if missing(method)
    }
    if len(skipped) == len(some_methods):
        raise ValueError(
            "a comparison needs methods that can run, but each one lacks packages: "
            + "; ".join(f"{name} needs {need}" for name, need in skipped.items())
        )
    return Plan(
        tasks=tuple(conditioned(task, some_seeds[0]) for task in some_tasks),
        methods=tuple(m for m in some_methods if m.name not in skipped),
        skipped=skipped,
        seeds=some_seeds,
        budgets=budgets,
        at_once=int(at_once),
        workers_per_trial=int(workers_per_trial),
    )


def _named(methods: Methods | None) -> list[str | Method]:
    """The methods to resolve: "all" is every registered one."""
    if methods is None:
        return list(DEFAULT)
    listed = _listed(methods)
    return list(METHODS) if listed == ["all"] else listed


def _listed(items: Any) -> list[Any]:
    several = isinstance(items, Iterable) and not isinstance(items, str)
    return list(items) if several else [items]


def _as_seeds(seeds: int | Iterable[int]) -> tuple[int, ...]:
    if not isinstance(seeds, Iterable):
        if not isinstance(seeds, Integral) or isinstance(seeds, bool):
            raise ValueError(f"seeds must be a count or a list, but got {said(seeds)}")
        if seeds > MOST_SEEDS:
            raise ValueError(
                f"seeds must be at most {MOST_SEEDS:,}, but got {said(seeds)}: each is "
                "a study of each method"
            )
        seeds = range(int(seeds))
    listed = tuple(seeds)
    for seed in listed:
        if not isinstance(seed, Integral) or not 0 <= int(seed) < 2**32:
            raise ValueError(
                f"seeds must be integers from 0 to 2**32 - 1, but got {said(seed)}"
            )
    return tuple(map(int, listed))


def _check(what: str, names: Iterable[Any]) -> None:
    """Raise ValueError unless there is something, and nothing twice."""
    names = list(names)
    if not names:
        raise ValueError(f"a comparison needs some {what}, but got none")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{what} of a comparison must differ, but got {twice[0]!r} more than once: "
            "give each once, under a name of its own"
        )


def _describe_task(task: Task) -> dict[str, Any]:
    return {
        "horizon": task.horizon,
        "space": without_addresses(task.space.description()),
        "settings": _describe(task),
    }


def _describe(thing: Any) -> str:
    return without_addresses(repr(thing))
