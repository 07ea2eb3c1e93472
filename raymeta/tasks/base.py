"""What a hyperparameter-optimization task is."""

from typing import Protocol

from raymeta.problem import BilevelProblem
from raymeta.space import Space


class Task(Protocol):
    """A family of training runs with one search space.

    Attributes:
        name: of the task, as the frame and the command line say it.
        space: the hyperparameters.
        horizon: T, the training steps of a full run.
        budget: the default budget of a comparison, in gradient evaluations.
    """

    name: str
    space: Space
    horizon: int
    budget: float

    def sample(self, seed: int) -> BilevelProblem:
        """One problem: its initial weights, split and batch order follow from seed."""
        ...
