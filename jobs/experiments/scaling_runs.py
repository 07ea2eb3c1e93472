"""The learned data set with the draws of W workers averaged in one process.

Every worker draws a classifier of its own at each outer step; their gradients are
averaged. So W workers do what one process does with W tasks.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from raymeta.data import Episode, Family
from raymeta.meta import MetaModule
from raymeta.train import TrainConfig
from raymeta.train.recipes import recipe

FRESH = 2000
#: Of the fresh classifiers, those that are followed for more steps than were learnt
#: with, and those that figures show.
FOLLOWED, SHOWN = 500, 100
MORE_STEPS = (10, 30, 100, 300, 1000)
#: Nodes in each dimension for the mean over all classifiers: it is exact to 1e-6 on
#: points from N(0, 1), and closer on what is learnt from them.
NODES = 12


class Tables(NamedTuple):
    """What is written; a run is one (inner_lr, workers, seed).

    Attributes:
        frame: one row per run and `outer_step` that is measured. With fresh classifiers
            after their inner steps: `meta_loss`, their mean outer loss;
            `expected_loss`, the same over all classifiers; `accuracy`. Of the points:
            see `geometry`.
        inner_steps: one row per run and `inner_steps` on what it has learnt: `loss` and
            `accuracy` of fresh classifiers.
        points: one row per run and learned point: `x`, `y`, `label`.
        lines: one row per run, fresh classifier and `inner_steps` of 0 and T: `w_x`,
            `w_y`, `b` of the line w·x + b = 0.
    """

    frame: pd.DataFrame
    inner_steps: pd.DataFrame
    points: pd.DataFrame
    lines: pd.DataFrame


def settings(
    inner_lr: float, workers: int, seeds: Iterable[int], steps: int
) -> TrainConfig:
    """The published settings, with a task for each worker."""
    return recipe(
        "learned_dataset",
        "classifiers",
        inner_lr=inner_lr,
        seeds=tuple(seeds),
        outer_steps=steps,
        tasks_per_step=workers,
        # What is learnt is measured here: no more held-out tasks than there must be.
        val_tasks=workers,
        test_tasks=workers,
        test_steps=0,
        checkpoint_every=steps,
    )


def learn(
    module: MetaModule, config: TrainConfig, seed: int, every: int
) -> Iterator[int]:
    """Learn in a module; yields 0, every, 2 every, … and the last outer step."""
    with torch.no_grad():
        for name, first in config.learner(seed).meta.items():
            module.theta()[name].copy_(first)
    optimizer = config.make_optimizer(module.parameters(), config.outer_lr)
    tasks = config.tasks_per_step
    for step in range(config.outer_steps):
        if step % every == 0:
            yield step
        episodes = config.family.episodes(
            step, tasks, 0, tasks, seed=seed, split="train"
        )
        optimizer.zero_grad()
        module(episodes).loss.backward()
        optimizer.step()
    yield config.outer_steps


def points_of(module: MetaModule) -> np.ndarray:
    """The points, (n, 2)."""
    return module.theta()["points"].detach().numpy()


class Measure:
    """Judges points by the same fresh classifiers in every run.

    Args:
        family: the family that classifiers are drawn from.
        fresh: how many.
    """

    def __init__(self, family: Family, fresh: int) -> None:
        self.fresh = family.episodes(0, fresh, 0, fresh, seed=0, split="test")
        self._nodes, self._weights = quadrature(NODES)

    @torch.no_grad()
    def __call__(self, module: MetaModule) -> dict[str, float]:
        """The measures of a row of the frame."""
        judged, everywhere = module(self.fresh), module(self._nodes)
        expected = (self._weights * everywhere.losses.double()).sum()
        return {
            "meta_loss": float(judged.loss),
            "expected_loss": float(expected),
            "accuracy": float(judged.metrics["accuracy"].mean()),
            **geometry(points_of(module).astype(float)),
        }

    @torch.no_grad()
    def after_more_steps(self, module: MetaModule) -> list[dict[str, float]]:
        """Rows of `inner_steps`; plain descent goes on from where it ended."""
        classifiers, taken = _first(self.fresh, FOLLOWED), 0
        rows = []
        for steps in sorted({0, module.learner.steps, *MORE_STEPS}):
            states = module.adapt(classifiers, steps - taken)
            classifiers, taken = Episode(states.params, ()), steps
            judged = module(classifiers, steps=0)
            rows.append(
                {
                    "inner_steps": steps,
                    "loss": float(judged.loss),
                    "accuracy": float(judged.metrics["accuracy"].mean()),
                }
            )
        return rows

    @torch.no_grad()
    def lines(self, module: MetaModule) -> pd.DataFrame:
        """Rows of `lines`."""
        fresh, steps = _first(self.fresh, SHOWN), module.learner.steps
        tables = []
        for count in (0, steps):
            params = module.adapt(fresh, count).params
            w = params["w"].numpy()
            table = {"inner_steps": count, "w_x": w[:, 0], "w_y": w[:, 1]}
            tables.append(pd.DataFrame(table | {"b": params["b"].numpy()}))
        return pd.concat(tables).rename_axis("classifier").reset_index()


def _first(episode: Episode, count: int) -> Episode:
    return Episode({name: x[:count] for name, x in episode.support.items()}, ())


def quadrature(nodes: int) -> tuple[Episode, Tensor]:
    """Classifiers and weights whose weighted mean is that over w, b ~ N(0, 1).

    The product of Gauss-Hermite rules: exact for polynomials of a degree below 2 nodes.
    """
    x, weight = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.stack(np.meshgrid(x, x, x), -1).reshape(-1, 3)
    products = np.einsum("i,j,k->ijk", *[weight / weight.sum()] * 3).ravel()
    values = torch.from_numpy(grid).to(torch.get_default_dtype())
    support = {"w": values[:, :2], "b": values[:, 2]}
    return Episode(support, ()), torch.from_numpy(products)


def geometry(points: np.ndarray) -> dict[str, float]:
    r"""How well the classes of a data set in the plane are separated.

    $$ \mathrm{gap} = \lVert \mu_1 - \mu_0 \rVert,\qquad
       \mathrm{ratio} = \mathrm{gap} \Big/ \sqrt{\frac1{2n} \sum_i
       \lVert x_i - \mu_{y_i} \rVert^2} $$

    Args:
        points: (n, 2); the first half has the label 0, the others 1.

    Returns:
        "gap", between the classes' centroids; "gap_ratio", over the deviation within
        the classes, per coordinate; "best_line", the accuracy of the best of all lines;
        "separable", whether that is 1.
    """
    n = len(points)
    centroids = points.reshape(2, n // 2, 2).mean(1)
    gap = float(np.linalg.norm(centroids[1] - centroids[0]))
    deviation = float(np.sqrt(((points - centroids.repeat(n // 2, 0)) ** 2).mean()))
    best = best_line(points)
    return {
        "gap": gap,
        "gap_ratio": gap / deviation,
        "best_line": best,
        "separable": best == 1,
    }


def best_line(points: np.ndarray) -> float:
    """The accuracy of the best of all lines, found exactly.

    Projected on a direction, points swap places only where it is orthogonal to the
    line through two of them. So one direction between each two such angles, with every
    threshold, stands for all lines.

    Args:
        points: (n, 2), no two the same; labels as for `geometry`.
    """
    n = len(points)
    first, second = np.triu_indices(n, 1)
    across = points[second] - points[first]
    swaps = np.sort((np.arctan2(across[:, 1], across[:, 0]) + np.pi / 2) % np.pi)
    angles = (swaps + np.append(swaps[1:], swaps[0] + np.pi)) / 2
    order = (np.stack([np.cos(angles), np.sin(angles)], 1) @ points.T).argsort(1)
    # Label 0 before the threshold: a point that passes it was wrong, or becomes so.
    correct = n // 2 + np.where(order < n // 2, 1, -1).cumsum(1)
    return float(max(correct.max(), n - correct.min()) / n)


def run_of(config: TrainConfig, seed: int) -> dict[str, float]:
    """What all tables say of a run."""
    inner_lr, workers = config.knobs["inner_lr"], config.tasks_per_step
    return {"inner_lr": inner_lr, "workers": workers, "seed": seed}


def measured(config: TrainConfig, measure: Measure, every: int) -> Iterator[Tables]:
    """Learn and measure, seed after seed.

    Args:
        config: see `settings`.
        measure: what judges.
        every: outer steps between two rows of the frame.
    """
    # One for all seeds: they differ in values alone, and the steps are traced once.
    module = MetaModule(config.learner(config.seeds[0]))
    for seed in config.seeds:
        rows = [
            {"outer_step": step, **measure(module)}
            for step in learn(module, config, seed, every)
        ]
        x, y = points_of(module).T
        labels = np.arange(len(x)) >= len(x) // 2
        tables = (
            pd.DataFrame(rows),
            pd.DataFrame(measure.after_more_steps(module)),
            pd.DataFrame({"x": x, "y": y, "label": labels.astype(int)}),
            measure.lines(module),
        )
        run = run_of(config, seed)
        yield Tables(*(table.assign(**run)[[*run, *table]] for table in tables))


def together(runs: Iterable[Tables]) -> Tables:
    """The tables of several runs in one."""
    return Tables(
        *(pd.concat(tables, ignore_index=True) for tables in zip(*runs, strict=True))
    )
