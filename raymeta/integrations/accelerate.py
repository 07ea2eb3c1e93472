"""accelerate: prepared optimizers learn their hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import torch

from raymeta.integrations.learning import Learner, Options, logged, missing
from raymeta.online.base import Learning

try:
    from accelerate.optimizer import AcceleratedOptimizer
except ImportError as error:
    raise missing("accelerate", "accelerate") from error


class Hypergradient:
    """Optimizers of an accelerated loop, which learn from now on.

    `learnt = Hypergradient(optimizer)`, before or after `accelerator.prepare`; the loop
    stays as it is. Schedulers scale what is learnt, clipping, accumulation and
    precision act as before, `accelerator.save_state` has all that is needed to go on to
    the bit. `accelerator.log(learnt.values)` logs what was learnt.

    Args:
        *optimizers: of `torch.optim`, prepared or not.
        learn: names of what is learnt; by default lr, and weight decay where there is
            any.
        **options: see `raymeta.integrations.learning.Options`.

    Attributes:
        optimizers: the ones that learn, without their wrappers.

    Raises:
        ValueError: an unknown option; see `raymeta.online.from_torch`.
    """

    def __init__(
        self,
        *optimizers: torch.optim.Optimizer,
        learn: Any = None,
        **options: Unpack[Options],
    ) -> None:
        learner = Learner(learn, options)
        self.optimizers = [learning(optimizer, learner) for optimizer in optimizers]

    @property
    def values(self) -> Mapping[str, float]:
        """What was learnt so far, as `learned/lr` and so on."""
        return logged(self.optimizers)


def learning(optimizer: torch.optim.Optimizer, learner: Learner) -> Learning:
    """The optimizer in its wrapper, or without one, which learns from now on."""
    if not isinstance(optimizer, AcceleratedOptimizer):
        return learner.begin(optimizer)
    found = learner.begin(optimizer.optimizer)
    # With a GradScaler it keeps the step of its optimizer: the new one from here on.
    optimizer.__setstate__({})
    return found
