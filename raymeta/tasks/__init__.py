"""Hyperparameter-optimization tasks, one a file."""

from collections.abc import Callable

from raymeta.errors import unknown_name
from raymeta.tasks import loading
from raymeta.tasks.base import Task, check_task, origin
from raymeta.tasks.char_gru import CharGRU
from raymeta.tasks.cleaning import Cleaning
from raymeta.tasks.digits import Digits
from raymeta.tasks.digits_choices import DigitsChoices
from raymeta.tasks.logistic import Logistic
from raymeta.tasks.mnist_cnn import MnistCNN
from raymeta.tasks.noisy_quadratic import NoisyQuadratic
from raymeta.tasks.quadratic import Quadratic
from raymeta.tasks.schedule import LearningRateSchedule
from raymeta.tasks.surface import Surface
from raymeta.tasks.throw import Throw

__all__ = [
    "CharGRU",
    "Cleaning",
    "Digits",
    "DigitsChoices",
    "LearningRateSchedule",
    "Logistic",
    "MnistCNN",
    "NoisyQuadratic",
    "Quadratic",
    "Surface",
    "Task",
    "Throw",
    "get",
    "names",
    "origin",
    "resolve",
]

_TASKS: dict[str, Callable[[], Task]] = {
    "char-gru": CharGRU,
    "cleaning": Cleaning,
    "digits": Digits,
    "digits-global": lambda: Digits(per_layer=False),
    "digits-choices": DigitsChoices,
    "logistic": Logistic,
    "mnist-cnn": MnistCNN,
    "quadratic": Quadratic,
    "quadratic-noisy": NoisyQuadratic,
    "schedule": LearningRateSchedule,
    "surface-branin": lambda: Surface(function="branin"),
    "surface-hartmann6": Surface,
    "throw": Throw,
}


def names() -> list[str]:
    """The names that `get` knows, those of installed packages included."""
    return sorted({**_TASKS, **loading.entry_points()})


def get(name: str) -> Task:
    """The task of this name, with its defaults; or the one at `path.py:Name`.

    Raises:
        ValueError: there is none; says which one may be meant. See `loading.from_file`
            for what may be wrong with a file.
    """
    if name in _TASKS:
        return _TASKS[name]()
    if (task := loading.own(name, loading.TASK)) is not None:
        return task
    raise unknown_name("task", name, names())


def resolve(task: Task | str) -> Task:
    """The task of a name, see `get`, or the object itself, checked.

    Raises:
        ValueError: see `get`; it lacks what a task needs.
    """
    if isinstance(task, str):
        return get(task)
    check_task(task)
    return task
