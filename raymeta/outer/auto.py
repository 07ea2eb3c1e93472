"""The descent that needs no choice: by the task's size, and the device's memory."""

import logging
from dataclasses import dataclass
from typing import Any

from raymeta.hypergrad import Checkpointed, Estimator, Reverse
from raymeta.hypergrad.memory import device_memory, step_graph_bytes
from raymeta.outer.base import HyperDescent
from raymeta.outer.offline import OfflineDescent
from raymeta.outer.surrogate import SurrogateDescent
from raymeta.problem import BilevelProblem
from raymeta.tasks.base import Task
from raymeta.types import Hparams

_log = logging.getLogger(__name__)

#: Its name.
AUTO = "auto"
#: Up to so many scalars a Gaussian process sees more than single steps do.
FEW = 20
#: Part of the device's memory that the graph of a whole run may take.
MEMORY = 0.25


@dataclass(frozen=True)
class Auto:
    """Choice of an estimator and of a descent, by the task.

    Up to 20 scalar hyperparameters: `SurrogateDescent`, which weighs hypergradients by
    what values say of them, and goes on without where they mislead or are refused.
    Beyond: `OfflineDescent`. Hypergradients are those of `Reverse`, or of
    `Checkpointed` where the graph of a whole run would take more than a quarter of the
    device's memory.
    """

    def descent(self, task: Task, settings: dict[str, Any]) -> HyperDescent:
        """The descent that fits a task.

        Args:
            task: gives the space and the horizon.
            settings: arguments of a `HyperDescent`, but for the estimator.

        Raises:
            ValueError: many hyperparameters, and a problem that refuses hypergradients.
        """
        problem: BilevelProblem = settings["problem"]
        hparams = task.space.trim(task.space.initial(device=problem.device))
        few = settings["coordinates"].start().numel() <= FEW
        try:
            estimator = affordable(problem, hparams, task.horizon)
            estimator.init(problem, hparams)
        except ValueError as refusal:
            if not few:
                raise
            _log.warning(
                "auto searches %r by values alone, for hypergradients are refused: %s",
                task.name,
                refusal,
            )
            reverse = Reverse(task.horizon)
            return SurrogateDescent(estimator=reverse, differentiable=False, **settings)
        make = SurrogateDescent if few else OfflineDescent
        return make(estimator=estimator, **settings)


def affordable(problem: BilevelProblem, hparams: Hparams, horizon: int) -> Estimator:
    """The fastest exact estimator in reverse mode whose graph has room.

    Raises:
        ValueError: a step cannot be taken with a graph.
    """
    needed = horizon * step_graph_bytes(problem, hparams)
    if needed > MEMORY * device_memory(problem.device):
        return Checkpointed(horizon)
    return Reverse(horizon)
