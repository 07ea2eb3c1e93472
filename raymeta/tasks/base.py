"""What a hyperparameter-optimization task is."""

from collections.abc import Mapping
from typing import Any, Protocol

from raymeta.problem import BilevelProblem
from raymeta.space import Space


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
    said = (getattr(task, name, None) for name in ("source", "licence"))
    return "; ".join(filter(None, said))


def picked(task: Task, hparams: Mapping[str, Any]) -> tuple[int, ...]:
    """Which options decide what is trained: their numbers; () where none does.

    Args:
        task: with `sample_for`, or no option does.
        hparams: λ, or any mapping with an option of every `Choice` by name.
    """
    if not hasattr(task, "sample_for"):
        return ()
    choices = task.space.choices.items()
    return tuple(choice.options.index(hparams[name]) for name, choice in choices)


def problem_at(
    task: Task, seed: int, hparams: Mapping[str, Any] | None = None
) -> BilevelProblem:
    """One problem, where the options in λ may decide what is trained.

    Args:
        task: with `sample_for` where they do.
        seed: see `Task.sample`.
        hparams: λ, or any mapping with an option of every `Choice` by name; by default
            the initial options.
    """
    if hparams is None or not hasattr(task, "sample_for"):
        return task.sample(seed)
    return task.sample_for(seed, {name: hparams[name] for name in task.space.choices})


def check_task(task: object) -> None:
    """Raise ValueError unless an object has what a task needs."""
    if isinstance(task, type):
        raise ValueError(
            f"a task must be an object, but got the class {task.__name__}: pass "
            f"{task.__name__}()"
        )
    for name in ("name", "space", "horizon", "budget", "sample"):
        if not hasattr(task, name):
            raise ValueError(
                f"a task needs name, space, horizon, budget and sample(seed), but "
                f"{task!r} has no {name}: add it"
            )
