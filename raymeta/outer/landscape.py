"""The outer loss over two hyperparameters, and how training goes at each point.

For looking at, after a comparison: what it costs is charged to no method.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from raymeta.errors import unknown_name
from raymeta.outer.conditions import conditioned
from raymeta.outer.descend import evaluate
from raymeta.outer.report import outer_value
from raymeta.results.schema import CURVE_COLUMNS, frame_of, hparam_columns
from raymeta.space import Choice
from raymeta.tasks.base import Task, sample_problem

if TYPE_CHECKING:
    from pandas import DataFrame

RUNGS = 40  # outer losses along a run


def loss_surface(
    task: Task,
    names: Sequence[str],
    *,
    at: Mapping[str, Any] | None = None,
    seed: int = 0,
    points: int = 15,
    progress: Callable[[int, int], None] | None = None,
) -> "DataFrame":
    """Train at every point of a grid over two hyperparameters.

    Args:
        task: what is trained.
        names: two continuous hyperparameters, by flat name.
        at: λ by flat name, for the others; the space's initial values by default.
        seed: seeds the task's sample.
        points: grid points along each, from bound to bound, evenly in the coordinate
            that black-box search samples uniformly (log λ for `Positive`).
        progress: called with the number of runs done and of all.

    Returns:
        A row per grid point and about 40 times of its run: `task`, `seed`,
        `inner_steps` (0 … T), `outer_loss` (not finite where training diverged),
        `hp/<name>` of every hyperparameter; `x` and `y`, the two names.

    Raises:
        ValueError: the names are not two different continuous hyperparameters with
            finite bounds, or there are fewer than two points.
    """
    if points < 2:
        raise ValueError(f"a surface needs at least 2 points a side, but got {points}")
    task = conditioned(task, seed)
    first, second = (_grid(task, name, points) for name in _two(task, names))
    flat = task.space.point(task.space.initial()) if at is None else dict(at)
    for name in names:
        if name not in task.space.used(flat):
            raise ValueError(
                f"a surface is over hyperparameters that are used, but {name!r} is not "
                f"at {flat}: choose others, or give other options by at="
            )
    grid = [{**flat, names[0]: x, names[1]: y} for y in second for x in first]
    rows = learning_curves(task, grid, seed=seed, progress=progress)
    return rows.drop(columns="outer_step").assign(x=names[0], y=names[1])


def learning_curves(
    task: Task,
    hparams: Iterable[Mapping[str, Any]],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> "DataFrame":
    """Train once at each λ, and look at the outer loss on the way.

    Args:
        task: what is trained.
        hparams: the λs, each by flat name; an option may be given as a frame holds it,
            as a string.
        seed: seeds the task's sample.
        progress: called with the number of runs done and of all.

    Returns:
        A row per λ and about 40 times of its run: `task`, `seed`, `outer_step` (which
        λ, from 0), `inner_steps` (0 … T), `outer_loss`, `hp/<name>…`.
    """
    task, chosen = conditioned(task, seed), list(hparams)
    rows = []
    for number, flat in enumerate(chosen):
        about = {"task": task.name, "seed": seed, "outer_step": number}
        values = hparam_columns(flat)
        rows += [
            {**about, "inner_steps": t, "outer_loss": loss, **values}
            for t, loss in _curve(task, flat, seed)
        ]
        if progress is not None:
            progress(number + 1, len(chosen))
    names = dict.fromkeys(name for row in rows for name in row)
    others = dict.fromkeys(name for name in names if name not in CURVE_COLUMNS)
    return frame_of(rows, CURVE_COLUMNS, others)


def _curve(task: Task, flat: Mapping[str, Any], seed: int) -> list[tuple[int, float]]:
    """(t, E(s_t)) of a run at fixed λ, from 0 to T."""
    point = task.space.parse(flat)
    problem = sample_problem(task, seed, point)
    hparams = task.space.hparams(point, device=problem.device)
    stride = max(1, task.horizon // RUNGS)
    rungs = [*range(stride, task.horizon, stride), task.horizon]
    start = outer_value(problem, problem.init(hparams), hparams)
    reports = evaluate(problem, task.space, point, rungs)
    return [(0, start), *((r.inner_steps, r.outer_loss) for r in reports)]


def _two(task: Task, names: Sequence[str]) -> Sequence[str]:
    """The names, checked."""
    known = task.space.flat_domains()
    for name in names:
        if name not in known:
            raise unknown_name("hyperparameter", name, known)
    discrete = [name for name in names if isinstance(known[name], Choice)]
    if len(set(names)) != 2 or discrete:
        raise ValueError(
            "a surface is over two different continuous hyperparameters, but got "
            f"{', '.join(names)}: choose two that are numbers"
        )
    return names


def _grid(task: Task, name: str, points: int) -> list[float]:
    """Natural values from bound to bound."""
    domain = task.space.flat_domains()[name]
    assert not isinstance(domain, Choice)
    domain.require_bounds(f"the surface over {name!r}")
    low, high = domain.sampled
    coordinates = torch.linspace(low, high, points, dtype=torch.float64)
    return domain.unsampled(coordinates).tolist()
