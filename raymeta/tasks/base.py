"""Tasks of hyperparameter optimization: their protocol, and checks of it."""

import inspect
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Protocol

from raymeta.errors import one_line, said
from raymeta.problem import BilevelProblem
from raymeta.space import Space

#: What every task has.
PARTS = ("name", "space", "horizon", "budget", "sample")


class Task(Protocol):
    """A family of training runs with one search space.

    A task may have more:

    - `sample_for(seed, choices)`: one problem at given options of all its `Choice`s, by
      name, where they decide what is trained (a module's shape); `sample(seed)` is then
      the one at the initial options. Without it, choices reach `init`, `step` and
      `optimizer` as values only.
    - `source` and `licence`: where the problem and its data come from, and under which
      licence, for `raymeta list`.
    """

    @property
    def name(self) -> str:
        """As the frame and the command line say it."""
        ...

    @property
    def space(self) -> Space:
        """The hyperparameters."""
        ...

    @property
    def horizon(self) -> int:
        """T, the training steps of a full run."""
        ...

    @property
    def budget(self) -> float:
        """The default budget of a comparison, in gradient evaluations."""
        ...

    def sample(self, seed: int) -> BilevelProblem:
        """One problem: its initial weights, split and batch order follow from seed."""
        ...


def origin(task: Task) -> str:
    """Source and licence of a task on one line, of as much as it names."""
    return "; ".join(filter(None, (offered(task, p) for p in ("source", "licence"))))


def offered(task: object, part: str) -> Any:
    """A part that a task may have or not; None where it has none."""
    return getattr(task, part, None)


def samples_by_choice(task: Task) -> bool:
    """Whether options decide what is trained: the task has `sample_for`."""
    return offered(task, "sample_for") is not None


def choice_key(task: Task, hparams: Mapping[str, Any]) -> tuple[int, ...]:
    """Which options decide what is trained: their numbers; () where none does.

    Args:
        task: the task; it has `sample_for`, or no option does.
        hparams: λ or a point, or any mapping with options by name.
    """
    if not samples_by_choice(task):
        return ()
    options = _options(task, hparams)
    return tuple(c.index(options[name]) for name, c in task.space.choices.items())


def sample_problem(
    task: Task, seed: int, hparams: Mapping[str, Any] | None = None
) -> BilevelProblem:
    """One problem, where the options in λ may decide what is trained.

    Args:
        task: the task; it has `sample_for` where they do.
        seed: see `Task.sample`.
        hparams: λ or a point, or any mapping with options by name; by default the
            initial options.
    """
    if hparams is None or not samples_by_choice(task):
        return task.sample(seed)
    return offered(task, "sample_for")(seed, _options(task, hparams))


def _options(task: Task, hparams: Mapping[str, Any]) -> dict[str, Any]:
    """An option of every choice: the initial one where λ does not use it."""
    choices = task.space.choices.items()
    return {k: c.option(hparams[k]) if k in hparams else c.initial for k, c in choices}


def sampled(task: Task, seed: int) -> BilevelProblem:
    """`task.sample(seed)`, for whoever has not called it before.

    Raises:
        ValueError: it raises, or returns no problem.
    """
    try:
        problem = task.sample(seed)
    except Exception as error:
        raise ValueError(
            f"task {task.name!r}: sample({seed}) raises {one_line(error)}"
        ) from error
    if not isinstance(problem, BilevelProblem):
        raise ValueError(
            f"task {task.name!r}: sample(seed) must return a BilevelProblem, but "
            f"sample({seed}) returns {said(problem)}: return what module_problem or "
            "descent makes"
        )
    return problem


def budget_of(task: Task, given: float | None) -> float:
    """The budget in gradient evaluations: what is given, or the task's own.

    Raises:
        ValueError: it is not a number.
    """
    budget = task.budget if given is None else given
    if not isinstance(budget, Real) or isinstance(budget, bool):
        whose = f"that of task {task.name!r} is" if given is None else "got"
        raise ValueError(
            f"budget must be a number, but {whose} {said(budget)}: give budget= in "
            "gradient evaluations"
        )
    return float(budget)


def check_task(task: object) -> None:
    """Raise ValueError unless an object has what a task needs."""
    if isinstance(task, type):
        raise ValueError(
            f"a task must be an object, but got the class {task.__name__}: pass "
            f"{task.__name__}()"
        )
    name, space, horizon, _, sample = (_part(task, part) for part in PARTS)
    if not isinstance(name, str) or not name.isprintable() or "/" in (name or "/"):
        raise ValueError(
            "a task needs a name of text without a slash, for it names folders, but "
            f"{said(task)} has name={said(name)}"
        )
    if not isinstance(space, Space) or not space:
        raise ValueError(
            f"task {name!r} needs a raymeta.Space with a hyperparameter as its space, "
            f"but has {said(space)}: write Space(lr=Positive(…))"
        )
    if not isinstance(horizon, Integral) or isinstance(horizon, bool) or horizon < 1:
        raise ValueError(
            f"task {name!r} needs a whole number of training steps, 1 or more, as its "
            f"horizon, but has {said(horizon)}"
        )
    if not _takes_seed(sample):
        raise ValueError(
            f"task {name!r} needs a method sample(seed), but has {said(sample)}: let "
            "it take a seed and nothing else"
        )


def _part(task: object, part: str) -> Any:
    try:
        return getattr(task, part)
    except Exception as error:
        if offered(type(task), part) is not None:  # a property
            raise ValueError(
                f"{said(task)} must have a {part}, but that raises {one_line(error)}"
            ) from error
        raise ValueError(
            f"a task needs {', '.join(PARTS[:-1])} and sample(seed), but "
            f"{said(task)} has no {part}: add it"
        ) from None


def _takes_seed(sample: Any) -> bool:
    try:
        inspect.signature(sample).bind(0)
    except TypeError:
        return False
    return True
