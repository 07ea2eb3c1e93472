"""What a hyperparameter-optimization task is."""

from typing import Protocol

from raymeta.problem import BilevelProblem
from raymeta.space import Space


class Task(Protocol):
    """A family of training runs with one search space."""

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
