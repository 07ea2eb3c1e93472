"""The descent that needs no choice: by the task's size, and the device's memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from raymeta.hypergrad import Checkpointed, Estimator, Reverse
from raymeta.hypergrad.memory import ROOM, device_memory, step_graph_bytes
from raymeta.outer.base import HyperDescent
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.mixed_coordinates import MixedCoordinates
from raymeta.outer.offline import OfflineDescent
from raymeta.outer.options_first import OptionsFirstDescent
from raymeta.outer.surrogate import SurrogateDescent
from raymeta.outer.trust import Evaluated
from raymeta.problem import BilevelProblem
from raymeta.space import Point
from raymeta.tasks.base import Task, choice_key, sample_problem
from raymeta.types import Hparams

#: A point, and E there.
Known = tuple[Point, float]
#: Its name.
AUTO = "auto"
#: Up to so many scalars and choices a Gaussian process sees more than single steps do.
FEW = 20
#: Problems at other options than the initial ones that are kept.
KEPT = 8


@dataclass(frozen=True)
class Auto:
    """Choice of an estimator and of a descent, by the task.

    Up to 20 scalar hyperparameters and choices: `SurrogateDescent`, which weighs
    hypergradients by what values say of them, goes on without where they mislead or are
    refused, and searches options as well. Beyond: `OfflineDescent`, or, where there are
    choices, `OptionsFirstDescent`. Hypergradients are those of `Reverse`, or of
    `Checkpointed` where the graph of a whole run would take more than a quarter of the
    device's memory.

    Args:
        estimator: how to differentiate; by the memory of this process' device if None.
    """

    estimator: Estimator | None = field(default=None, repr=False)

    def descent(
        self, task: Task, settings: dict[str, Any], known: Sequence[Known] = ()
    ) -> HyperDescent:
        """The descent that fits a task.

        Args:
            task: gives the space and the horizon.
            settings: arguments of a `HyperDescent`, but for the estimator and the
                coordinates.
            known: points and E there, ∞ where training diverged, from which the descent
                goes on; with many hyperparameters at the options of the best one.

        Raises:
            ValueError: many hyperparameters, and a problem that refuses hypergradients.
        """
        problem: BilevelProblem = settings["problem"]
        space = task.space
        hparams = space.trim(space.initial(device=problem.device))
        mixed = MixedCoordinates(space, problem.device)
        few = mixed.dimensions <= FEW
        estimator: Estimator = Reverse(task.horizon)
        refusal = ""
        try:
            estimator = self.estimator or settings["evaluator"].common(
                affordable(problem, hparams, task.horizon)
            )
            estimator.init(problem, hparams)
        except ValueError as error:
            if not few:
                raise
            refusal = f"hypergradients of {task.name!r} are refused: {error}"
        problem_of = problems_of(task, settings["seed"], problem)
        if few:
            return SurrogateDescent(
                estimator=estimator,
                coordinates=mixed,
                problem_of=problem_of,
                refusal=refusal,
                known=tuple(Evaluated(mixed.at(p), value, None) for p, value in known),
                **settings,
            )
        if known:
            going_on = settings_from(known, task, settings)
            return OfflineDescent(estimator=estimator, **going_on)
        if mixed.choices:
            return OptionsFirstDescent(
                estimator=estimator,
                coordinates=mixed,
                space=space,
                problem_of=problem_of,
                **settings,
            )
        coordinates = Coordinates(space, problem.device)
        return OfflineDescent(estimator=estimator, coordinates=coordinates, **settings)


def settings_from(
    known: Sequence[Known], task: Task, settings: dict[str, Any]
) -> dict[str, Any]:
    """The settings of a descent that goes on at the options of the best known point.

    Args:
        known: points and E there.
        task: what is trained.
        settings: arguments of a `HyperDescent`.
    """
    space, problem = task.space, settings["problem"]
    best, _ = min(known, key=lambda one: one[1])
    start = space.hparams(best, dtype=torch.float64)
    problem = problems_of(task, settings["seed"], problem)(start)
    coordinates = Coordinates(space.at(best), problem.device, start)
    points = [
        Evaluated(coordinates.at(space.hparams(p, dtype=torch.float64)), value, None)
        for p, value in known
        if all(p.get(name) == best.get(name) for name in space.choices)
    ]
    return {
        **settings,
        "problem": problem,
        "coordinates": coordinates,
        "known": tuple(points),
    }


def problems_of(
    task: Task, seed: int, problem: BilevelProblem
) -> Callable[[Hparams], BilevelProblem]:
    """The problem at the options of λ; the latest are kept.

    Args:
        task: what is trained.
        seed: see `Task.sample`.
        problem: the one at the initial options.
    """
    first = choice_key(task, task.space.initial())
    known: dict[tuple[int, ...], BilevelProblem] = {}

    def at(hparams: Hparams) -> BilevelProblem:
        key = choice_key(task, hparams)
        if key == first:
            return problem
        if key not in known:
            while len(known) >= KEPT:
                del known[next(iter(known))]  # the oldest
            known[key] = sample_problem(task, seed, hparams)
        return known[key]

    return at


def affordable(problem: BilevelProblem, hparams: Hparams, horizon: int) -> Estimator:
    """The fastest exact estimator in reverse mode whose graph has room.

    Raises:
        ValueError: a step cannot be taken with a graph.
    """
    needed = horizon * step_graph_bytes(problem, hparams)
    if needed > ROOM * device_memory(problem.device):
        return Checkpointed(horizon)
    return Reverse(horizon)
