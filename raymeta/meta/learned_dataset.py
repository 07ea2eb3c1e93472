"""Learned data sets: examples as meta-parameters."""

import torch
from torch import Tensor
from torch.nn import functional as F

from raymeta.data.episodes import Episode
from raymeta.errors import require_arguments
from raymeta.meta.learner import Learner, require_steps
from raymeta.meta.supervised import Inner, rule_of
from raymeta.optim import sgd
from raymeta.problem import BilevelProblem, descent
from raymeta.types import Batch, Tensors


def learned_dataset(
    points: int = 100,
    dimensions: int = 2,
    *,
    seed: int = 0,
    optimizer: Inner | None = None,
    steps: int = 3,
) -> Learner:
    r"""Points that any random linear classifier separates after a few steps.

    $$ w, b \sim N(0, 1),\quad
       f(w, b; X) = \mathrm{BCE}(X w + b, y),\quad
       (w, b) \leftarrow (w, b) - \alpha \nabla f\; (T \text{ times}),\quad
       \min_X \mathbb{E}\, f(w_T, b_T; X) $$

    Half of the points have the label 0, the others 1. Of a task the support is the
    initial classifier, `{"w": (d,), "b": ()}`, the query nothing: see
    `raymeta.data.LinearClassifiers`. The one meta-parameter is "points", (n, d).

    Args:
        points: n, an even number.
        dimensions: d.
        seed: seeds the first points, which are N(0, 1).
        optimizer: see `maml`; SGD with a learning rate of 0.01 by default.
        steps: T, the inner steps.

    Raises:
        ValueError: an odd number of points, or no points or dimensions; an optimizer
            that the engine cannot differentiate; steps below 1.

    Source: Grefenstette et al. 2019, the authors' distributed example.
    """
    require_arguments(
        learned_dataset, points=points, dimensions=dimensions, seed=seed, steps=steps
    )
    if points < 2 or points % 2 or dimensions < 1:
        raise ValueError(
            "learned_dataset needs an even number of points and dimensions >= 1, but "
            f"got points={points}, dimensions={dimensions}"
        )
    require_steps(steps)
    rule = rule_of(sgd(0.01) if optimizer is None else optimizer)
    first = torch.randn(
        points, dimensions, generator=torch.Generator().manual_seed(seed)
    )

    def logits(params: Tensors, theta: Tensors) -> tuple[Tensor, Tensor]:
        x = theta["points"]
        labels = torch.arange(points, device=x.device) >= points // 2
        return x @ params["w"] + params["b"], labels.to(x.dtype)

    def loss(params: Tensors, theta: Tensors) -> Tensor:
        return F.binary_cross_entropy_with_logits(*logits(params, theta))

    def accuracy(params: Tensors, theta: Tensors) -> Tensors:
        z, y = logits(params, theta)
        return {"accuracy": ((z > 0) == (y > 0)).to(z.dtype).mean()}

    def problem(task: Episode) -> BilevelProblem:
        def batch(t: int) -> Batch:
            return Batch(torch.tensor(t, device=task.support["b"].device), ())

        return descent(
            init_params=lambda theta: dict(task.support),
            inner_loss=lambda params, theta, batch: loss(params, theta),
            outer_loss=loss,
            optimizer=rule,
            batch=batch,
            metrics=accuracy,
        )

    return Learner(meta={"points": first}, problem=problem, steps=steps)
