"""First look at a task: the part of its diagnosis that costs no training."""

from collections.abc import Iterator

import torch

from raymeta import tasks
from raymeta._tree import detach
from raymeta.errors import one_line
from raymeta.hypergrad.memory import ROOM, device_memory, step_graph_bytes
from raymeta.modules.non_smooth import (
    NonSmooth,
    NonSmoothFunctions,
    non_smooth_layers,
    put_instead,
)
from raymeta.outer.cast_problem import precision_of
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.sensitivity import distance
from raymeta.problem import BilevelProblem
from raymeta.results.overfitting import EXAMPLES
from raymeta.runtime.progress import count
from raymeta.tasks.base import Task
from raymeta.types import Hparams

UNSEEDED = (
    "a step is another one each time it is taken: seed what it draws by batch.index"
)


def first_look(task: Task, problem: BilevelProblem) -> str:
    """What can be said before anything is spent, on one line that ends in a verdict.

    Two steps at the start tell what is not smooth, whether a step is a function of its
    arguments, and how much a graph of the run would hold; the rest is counting. "trust"
    says that nothing speaks against hypergradients so far: only `diagnose` looks at
    slopes.

    Args:
        task: what is tuned, at its start.
        problem: one sample of it.
    """
    named = f" --task {task.name}" if task.name in tasks.names() else ""
    head, whole = f"{task.name} at first look", f"raymeta diagnose{named}"
    if not task.space.continuous:
        return f"{head} ({whole}): use search: no hyperparameter is continuous"
    try:
        about, verdict = _looked_at(task, problem)
    except Exception as error:  # the trials will say it in full
        return f"{head} ({whole}): use search: a step raises {one_line(error)[:120]}"
    return f"{head} ({about}; slopes: {whole}): {verdict}"


def non_smooth_parts(problem: BilevelProblem, hparams: Hparams) -> list[NonSmooth]:
    """Layers of the module, and functions of a step and of E."""
    state = detach(problem.init(hparams))
    layers: list[NonSmooth] = []
    if problem.module is not None:
        layers = non_smooth_layers(problem.module(state, hparams))
    with NonSmoothFunctions() as functions:
        state = problem.step(state, hparams, problem.batch(0))
        problem.outer_loss(state, hparams)
    return [*layers, *functions.beside(layers)]


def is_repeatable(problem: BilevelProblem, hparams: Hparams) -> bool:
    """Whether the first step is the same when it is taken again."""
    s_0, batch = detach(problem.init(hparams)), problem.batch(0)
    return distance(*(problem.step(s_0, hparams, batch) for _ in range(2))) == 0


def _looked_at(task: Task, problem: BilevelProblem) -> tuple[str, str]:
    """What there is to be tuned, in a few words; and the verdict."""
    coordinates = Coordinates(task.space, problem.device)
    x = coordinates.start()
    hparams, size = coordinates.hparams(x), problem.validation_size
    dtype = precision_of(problem, hparams)
    counts = [count(len(x), "hyperparameter")]
    counts += [] if size is None else [f"{size:,} validation examples"]
    steps = count(task.horizon, "step")
    counts += [f"{steps} in {str(dtype).removeprefix('torch.')}"]
    if not is_repeatable(problem, hparams):
        return ", ".join(counts), f"use search: {UNSEEDED}"
    doubts = list(_doubts(task, problem, hparams, len(x), dtype))
    verdict = f"trust with care: {'; '.join(doubts)}" if doubts else "trust"
    return ", ".join(counts), verdict


def _doubts(
    task: Task,
    problem: BilevelProblem,
    hparams: Hparams,
    hyperparameters: int,
    dtype: torch.dtype,
) -> Iterator[str]:
    """What may go wrong, each with what to change."""
    if parts := non_smooth_parts(problem, hparams):
        yield f"{put_instead(parts)}, whose derivative jumps"
    size, held_back = problem.validation_size, problem.holdout_loss is not None
    if size is not None and size < EXAMPLES * hyperparameters and not held_back:
        yield (
            f"fewer than {EXAMPLES} validation examples for each hyperparameter may be "
            "overfitted, see it with holdout=0.3"
        )
    if torch.finfo(dtype).bits < 32:
        yield f"slopes of E are rough in {dtype}: train in float32"
    needed = task.horizon * step_graph_bytes(problem, hparams)
    there = device_memory(problem.device)
    if needed > ROOM * there:
        yield (
            f"a graph of the whole run takes {needed / 2**30:,.0f} GiB of "
            f"{there / 2**30:,.0f}: use checkpointed, or a shorter horizon"
        )
