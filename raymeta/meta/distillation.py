"""Distillation of a data set into a few images."""

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor, nn

from raymeta.data.episodes import Episode, Examples, SplitName
from raymeta.data.families import Family
from raymeta.data.random import draws
from raymeta.errors import require_arguments
from raymeta.meta.learner import Learner
from raymeta.meta.supervised import Loss, Options, network_of, require_known, supervised
from raymeta.meta.weighted import Unpadded
from raymeta.optim import sgd
from raymeta.types import Tensors


def distillation(
    module: nn.Module,
    *,
    loss: Loss,
    images: Tensor,
    labels: Tensor,
    lr: float = 0.02,
    epochs: int = 1,
    **options: Unpack[Options],
) -> Learner:
    r"""Learn images on which a network learns in few steps what real ones teach it.

    $$ \phi_{t+1} = \phi_t - \eta_t \nabla_\phi L(\phi_t; X_{t \bmod S}),\qquad
       \min_{X, \eta} L(\phi_T; \text{real data}),\quad T = S \cdot \mathrm{epochs} $$

    Meta-parameters: "images" X, and "log_lr" (T,), the logarithm of η. The query of a
    task is a batch of real `Examples`. Its support is the network's initial weights
    (see `RandomWeights`), or `()` for the module's own: the fixed initialization.

    Args:
        module: see `maml`; its weights are no part of θ.
        loss: see `maml`.
        images: X at the start, shape (S, m, ...): each of S steps has m of its own.
        labels: their classes, shape (m,), the same for each step.
        lr: every η at the start.
        epochs: how often the steps go through X.
        **options: see `Options`.

    Raises:
        ValueError: labels of another number than images; lr <= 0; epochs below 1; and
            see `maml`.

    Source: Wang et al. 2018, Algorithm 1 and section 3.4.
    """
    require_known(distillation, options)
    require_arguments(distillation, images=images, labels=labels, lr=lr, epochs=epochs)
    if images.ndim < 2 or images.shape[1:2] != labels.shape:
        raise ValueError(
            "distillation needs images (steps, m, ...) with labels (m,), but got "
            f"shapes {tuple(images.shape)} and {tuple(labels.shape)}"
        )
    most = torch.finfo(torch.get_default_dtype()).max
    if not (0 < lr <= most and epochs >= 1):
        raise ValueError(
            "distillation needs a finite lr > 0 and epochs >= 1, but got "
            f"lr={lr}, epochs={epochs}"
        )
    network = network_of(module, options)
    count, classes = len(images), labels.detach().clone()

    def start(theta: Tensors, task: Episode) -> Tensors:
        random = isinstance(task.support, dict) and task.support
        return dict(random) if random else network.own(theta)

    def seen(task: Episode, theta: Tensors, t: Tensor) -> Examples:
        x = theta["images"].index_select(0, (t % count).reshape(1)).squeeze(0)
        return Unpadded(x, classes.to(x.device), x.new_ones(len(x)))

    steps = count * epochs
    meta = {
        "images": images.detach().clone(),
        "log_lr": images.new_full((steps,), float(lr)).log(),
    }
    return supervised(
        network,
        meta=meta,
        loss=loss,
        optimizer=lambda theta: sgd(theta["log_lr"].exp()),
        steps=steps,
        options=options,
        start=start,
        seen=seen,
    )


@dataclass(frozen=True)
class RandomWeights:
    """A family whose tasks begin with random weights of a network, in their support.

    Each tensor is normal with the mean and the standard deviation of the module's own.

    Attributes:
        family: whose queries the tasks have.
        module: the network.
    """

    family: Family
    module: nn.Module

    @property
    def name(self) -> str:
        """That of the family."""
        return self.family.name

    def episodes(
        self,
        step: int,
        count: int,
        start: int,
        stop: int,
        *,
        seed: int,
        split: SplitName,
    ) -> Episode:
        """Tasks start … stop - 1 of a step: see `Family.episodes`."""
        query = self.family.episodes(
            step, count, start, stop, seed=seed, split=split
        ).query
        random = draws(step, count, start, stop, seed=seed, split=split)
        weights = {}
        for name, p in self.module.named_parameters():
            if p.requires_grad:
                std, mean = torch.std_mean(p.detach(), correction=0)
                own = random.normal(f"weights {name}", *p.shape)
                weights[name] = (mean + std * own).to(p.dtype)
        return Episode(weights, query)
