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
