"""transformers: the optimizer of a `Trainer` learns its hyperparameters."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from raymeta.integrations.learning import Learner, Options, logged, missing
from raymeta.online.base import Learning

try:
    from transformers import TrainerCallback
    from transformers.trainer_pt_utils import get_parameter_names
except ImportError as error:
    raise missing("transformers and accelerate", "transformers") from error

from raymeta.integrations.accelerate import learning


class Hypergradient(TrainerCallback):
    """Callback by which a `Trainer`'s own optimizer learns while training goes on.

    `Trainer(…, callbacks=[Hypergradient()])`. The optimizer and its scheduler are those
    of the arguments: the scheduler scales what is learnt, clipping, accumulation and
    precision act as before, and checkpoints have all that is needed to go on to the
    bit. What was learnt stands in each log as `learned/lr[0]`, `learned/lr[1]` (without
    weight decay) and so on.

    Args:
        learn: names of what is learnt; by default lr, and weight decay where there is
            any.
        **options: see `raymeta.integrations.learning.Options`.

    Attributes:
        optimizer: the one that learns, from the start of training.

    Raises:
        ValueError: an unknown option; as training starts, see
            `raymeta.online.from_torch`.
    """

    def __init__(self, learn: Any = None, **options: Unpack[Options]) -> None:
        self._learner = Learner(learn, options)
        self.optimizer: Learning | None = None

    def on_train_begin(self, *args: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Let the optimizer learn, or go on where its state learnt before."""
        self.optimizer = learning(optimizer, self._learner)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
    ) -> None:
        """Add what was learnt, also to the history that the state keeps."""
        if self.optimizer is None or logs is None or "loss" not in logs:
            return
        found = logged([self.optimizer])
        logs.update(found)
        state.log_history[-1].update(found)


def optimizers(
    model: nn.Module,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    *,
    learn: Any = None,
    **options: Unpack[Options],
) -> tuple[Learning, LambdaLR]:
    """What `Trainer(optimizers=…)` takes: AdamW that learns, at a constant schedule.

    Weights decay as `Trainer` lets them: not biases and norms.

    Args:
        model: the trainer's.
        lr: where the learning rate starts.
        weight_decay: where that of all other weights starts.
        learn: see `Hypergradient`.
        **options: see `raymeta.integrations.learning.Options`.

    Raises:
        ValueError: an unknown option; see `raymeta.online.from_torch`.
    """
    decays = set(get_parameter_names(model, [nn.LayerNorm], ["bias", "norm"]))
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, p in model.named_parameters():
        if p.requires_grad:
            parts[name in decays].append(p)
    groups = [
        {"params": params, "weight_decay": weight_decay if decayed else 0.0}
        for decayed, params in parts.items()
        if params
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    learner = Learner(learn, options)
    return learner.begin(optimizer), LambdaLR(optimizer, lambda step: 1.0)
