"""Guard of hypergradients in half precision: whether they are more than noise."""

import torch

from raymeta._tree import partition
from raymeta.hypergrad import Estimator, Reverse, hypergradient
from raymeta.hypergrad.base import with_steps
from raymeta.modules.functional import full_precision
from raymeta.outer.auto import Auto
from raymeta.outer.cast_problem import cast_problem
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.evaluator import Evaluator
from raymeta.problem import BilevelProblem
from raymeta.tasks.base import Task
from raymeta.types import Hparams, Tensors

#: A cosine with the hypergradient in float32 below which one is noise.
NOISE = 0.9
#: The share of a run that is looked at, as by a descent's first estimate.
SHARE = 8


def noise(
    task: Task,
    problem: BilevelProblem,
    estimator: Estimator | Auto,
    evaluator: Evaluator,
) -> str | None:
    """What to say where hypergradients in half precision point elsewhere.

    The one of T/8 steps at the start is made in float32 as well. Neither is charged.

    Args:
        task: gives the space and the horizon.
        problem: one sample of it.
        estimator: how to differentiate.
        evaluator: remembers the cosine.
    """
    hparams = task.space.trim(task.space.initial(device=problem.device))
    half = problem.autocast or _coarse(problem, hparams)
    if half is None or not task.space.continuous:
        return None
    steps = max(1, task.horizon // SHARE)
    short: Estimator = Reverse(steps)
    if not isinstance(estimator, Auto):
        short = with_steps(estimator, min(steps, estimator.steps))
    cosine = evaluator.once(
        "half_precision_cosine", lambda: _cosine(task, problem, hparams, short)
    )
    if not cosine < NOISE:
        return None
    kind = str(half).removeprefix("torch.")
    return (
        f"{task.name}: hypergradients in {kind} are noise: the first one, of "
        f"{short.steps} steps, has a cosine of {cosine:.2f} with that in float32; "
        "train in float32 (leave autocast out), or look at fewer steps (Truncated, "
        "ShortTerm), and with Adam give eps_root=1e-8"
    )


def _coarse(problem: BilevelProblem, hparams: Hparams) -> torch.dtype | None:
    """The dtype of weights that are themselves in half precision."""
    for x in partition(problem.init(hparams))[0]:
        if x.dtype in (torch.bfloat16, torch.float16):
            return x.dtype
    return None


def _cosine(
    task: Task, problem: BilevelProblem, hparams: Hparams, estimator: Estimator
) -> float:
    """Of dE/dx in both precisions; 1 where one is refused."""
    coordinates = Coordinates(task.space, problem.device)
    x = coordinates.start()
    coarse = _coarse(problem, hparams)
    twin = cast_problem(problem, torch.float32, coarse or torch.float32)

    def slope(at: BilevelProblem) -> torch.Tensor:
        grads: Tensors = hypergradient(at, hparams, estimator).grads
        return coordinates.gradient(x, {k: g.float() for k, g in grads.items()})

    try:
        own = slope(problem)
        with full_precision():
            wide = slope(twin)
    except ValueError:  # the descent says why
        return 1.0
    return float(torch.nn.functional.cosine_similarity(own, wide, dim=0))
