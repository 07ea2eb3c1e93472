"""Hyperparameter-optimization tasks, one a file."""

from collections.abc import Callable

from raymeta.suggest import unknown
from raymeta.tasks.base import Task
from raymeta.tasks.digits import Digits
from raymeta.tasks.quadratic import Quadratic

__all__ = ["Digits", "Quadratic", "Task", "get", "names"]

_TASKS: dict[str, Callable[[], Task]] = {
    "digits": Digits,
    "digits-global": lambda: Digits(per_layer=False),
    "quadratic": Quadratic,
}


def names() -> list[str]:
    """The names that `get` knows."""
    return sorted(_TASKS)


def get(name: str) -> Task:
    """The task of this name, with its defaults.

    Raises:
        ValueError: there is none; says which one may be meant.
    """
    if name not in _TASKS:
        raise unknown("task", name, _TASKS)
    return _TASKS[name]()
