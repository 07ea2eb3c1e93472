"""Conditions of a task: which λ are used at which options, found by looking."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

from raymeta.hypergrad.used_hparams import Read, lacking, read
from raymeta.problem import BilevelProblem
from raymeta.space import Choice, Space
from raymeta.tasks.base import (
    Task,
    offered,
    sample_problem,
    sampled,
    samples_by_choice,
)

#: Combinations of options beyond which nobody looks: they must be declared.
MOST = 64


class Conditioned:
    """A task whose space knows what is used at which options; all else is the task's.

    Args:
        task: the task as it was given.
        space: its own, with conditions.
    """

    def __init__(self, task: Task, space: Space) -> None:
        self._task, self.space = task, space

    def __getattr__(self, name: str) -> Any:
        if name == "_task":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self._task, name)

    def __repr__(self) -> str:
        return repr(self._task)


def conditioned(task: Task, seed: int = 0) -> Task:
    """The task with conditions, where its space has choices and does not declare them.

    A hyperparameter has a condition where init, the first and last step and the outer
    loss (and `sample_for`) ask for it at some options and not at others, and where each
    choice by itself says which these are. One that is asked for nowhere has none: that
    is a mistake.

    Args:
        task: the task; one problem of it, or one for each combination of options that
            decide what is trained, takes a step at each combination.
        seed: seeds the problem.

    Raises:
        ValueError: what the space declares as not used is read all the same.
    """
    space = task.space
    combinations = list(islice(space.options(), MOST + 1))
    if not space.choices or len(combinations) > MOST:
        return task
    if space.is_declared:
        _require_unread(task, seed, combinations)
        return task
    reads = list(_reads(task, seed, combinations))
    found = {name: _condition(name, space, combinations, reads) for name in space}
    when = {name: condition for name, condition in found.items() if condition}
    return Conditioned(task, Space(**space, when=when)) if when else task


def seen_by(problem: BilevelProblem, space: Space, point: Mapping[str, Any]) -> Space:
    """The space without what a point lacks and the problem does not ask for.

    For a point of `conditioned`, and the space as it was.

    Args:
        problem: at the options of the point.
        space: which the point is of.
        point: λ by flat name.
    """
    names = {name.split("[")[0] for name in point}
    if not space.choices or space.is_declared or names >= set(space):
        return space
    options = {k: d.option(point[k]) for k, d in space.choices.items() if k in point}
    asked = _asked(problem, space, options)
    return Space(**{k: d for k, d in space.items() if k in names | asked}, when={})


def _require_unread(task: Task, seed: int, combinations: list[dict[str, Any]]) -> None:
    space = task.space
    if not space.when:
        return
    problem = sampled(task, seed)
    for options in combinations:
        at = sample_problem(task, seed, options) if samples_by_choice(task) else problem
        hparams = space.trim({**space.initial(device=at.device), **options})
        name = lacking(at, hparams)
        if name is not None and name in space:
            raise ValueError(
                f"task {task.name!r} reads hyperparameter {name!r} at {options}, where "
                "when= says that it is not used: read it only where it is, or leave "
                "the condition out"
            )


def _reads(
    task: Task, seed: int, combinations: Iterable[dict[str, Any]]
) -> Iterable[set[str]]:
    """What is asked for at each combination; everything where that cannot be seen."""
    problem = None if samples_by_choice(task) else sampled(task, seed)
    for options in combinations:
        names, chosen = set(task.space), Read(options)
        with suppress(Exception):  # who trains at these options will say why
            at = problem or offered(task, "sample_for")(seed, chosen)
            names = _asked(at, task.space, options, task.horizon) | chosen.names
        yield names


def _asked(
    problem: BilevelProblem, space: Space, options: Mapping[str, Any], steps: int = 1
) -> set[str]:
    hparams = {**space.initial(device=problem.device), **options}
    return read(problem, hparams, steps)


def _condition(
    name: str,
    space: Space,
    combinations: list[dict[str, Any]],
    reads: list[set[str]],
) -> dict[str, tuple[Any, ...]]:
    """The options at which a hyperparameter is asked for; {} where it always is."""
    used = [name in names for names in reads]
    if all(used) or not any(used):
        return {}
    condition = {}
    for choice, domain in space.choices.items():
        numbers = {
            domain.index(options[choice])
            for options, is_used in zip(combinations, used, strict=True)
            if is_used
        }
        if len(numbers) < len(domain.options) and choice != name:
            condition[choice] = tuple(domain.options[n] for n in sorted(numbers))
    says = [_meets(condition, space.choices, options) for options in combinations]
    return condition if says == used else {}


def _meets(
    condition: Mapping[str, tuple[Any, ...]],
    choices: Mapping[str, Choice],
    options: Mapping[str, Any],
) -> bool:
    return all(
        choices[name].index(options[name]) in map(choices[name].index, allowed)
        for name, allowed in condition.items()
    )
