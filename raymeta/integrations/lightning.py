"""Lightning: the optimizers of a module learn their hyperparameters."""

from __future__ import annotations

from typing import Any, Unpack

from raymeta.integrations.learning import Learner, Options, logged, missing
from raymeta.online.base import Learning

try:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback
except ImportError as error:
    raise missing("Lightning", "lightning") from error


class Hypergradient(Callback):
    """Callback by which the module's own optimizers learn while training goes on.

    `Trainer(callbacks=[Hypergradient()])`. What `configure_optimizers` returns stays:
    its schedulers scale what is learnt, clipping, accumulation and precision act as
    before, and checkpoints have all that is needed to go on to the bit. After each
    batch what was learnt is logged as `learned/lr`, `learned/weight_decay`, with the
    group in brackets where there are several, as in `learned/lr[1]`, and the
    optimizer's number before it, as in `learned/0/lr`.

    Args:
        learn: names of what is learnt; by default lr, and weight decay where there is
            any.
        **options: see `raymeta.integrations.learning.Options`.

    Attributes:
        optimizers: the ones that learn, from the start of the fit.

    Raises:
        ValueError: an unknown option; as the fit starts, see
            `raymeta.online.from_torch`.
    """

    def __init__(self, learn: Any = None, **options: Unpack[Options]) -> None:
        self._learner = Learner(learn, options)
        self.optimizers: list[Learning] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the optimizers learn, before a checkpoint's states are loaded."""
        groups = [g for o in trainer.optimizers for g in o.param_groups]
        # Lightning takes one of its own, of nothing, where a module returns none.
        if not any(p.requires_grad for g in groups for p in g["params"]):
            raise ValueError(
                "Hypergradient needs an optimizer, but configure_optimizers of "
                f"{type(pl_module).__name__} returns none: return one of torch.optim"
            )
        self.optimizers = [self._learner.begin(o) for o in trainer.optimizers]
        # Lightning wraps them in classes made of theirs.
        trainer.optimizers = list(self.optimizers)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Log what was learnt."""
        self.log_dict(dict(logged(self.optimizers)), on_step=True, on_epoch=False)
