"""A recurrent network that predicts the next character of a text."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from raymeta.data import split
from raymeta.data.text import passages, text
from raymeta.modules import module_problem
from raymeta.optim import Optimizer, adamw, clip_by_norm
from raymeta.problem import BilevelProblem
from raymeta.space import Positive, Space, Unit
from raymeta.tasks.networks import accuracy, by_layer, seeded
from raymeta.types import Hparams

GROUPS = ("embedding", "gru", "output")
EMBEDDING, HIDDEN = 16, 64


@dataclass(frozen=True, kw_only=True)
class CharGRU:
    """Learn rates and weight decays of embedding, GRU and output, clipping and β_1.

    AdamW on passages of a text in batches of 32; half of the passages are for
    training, a quarter for validation and a quarter for test.

    Attributes:
        path: path of a text in UTF-8 of your own; None: scikit-learn's descriptions of
            its data sets, 43 thousand characters of English.
        length: characters of a passage.
        horizon: T, training steps of a full run.
        budget: gradient evaluations of a comparison; 50 full runs by default.

    Raises:
        ValueError: from `sample`: see `raymeta.data.text`.
    """

    path: str | None = None
    length: int = 32
    horizon: int = 60
    budget: float = 3200.0
    name: str = "char-gru"
    source: ClassVar[str] = "descriptions of data sets in scikit-learn"
    licence: ClassVar[str] = "BSD-3-Clause"

    @property
    def space(self) -> Space:
        """Starts at the centre of what black-box search samples."""
        shape = (len(GROUPS),)
        return Space(
            lr=Positive(10**-2.5, low=1e-4, high=0.1, shape=shape),
            weight_decay=Positive(1e-2, low=1e-4, high=1.0, shape=shape),
            max_norm=Positive(10**-0.5, low=1e-2, high=10.0),
            beta1=Unit(0.495, low=0.0, high=0.99),
        )

    def sample(self, seed: int) -> BilevelProblem:
        """A new split, initialization and batch order."""
        inputs, targets, characters = passages(text(self.path), self.length)
        parts = split(inputs, targets, fractions=(0.5, 0.25), seed=seed)
        return module_problem(
            seeded(lambda: _Network(len(characters)), seed),
            loss=F.cross_entropy,
            train=parts.train,
            val=parts.val,
            test=parts.test,
            metrics={"accuracy": accuracy, "bits_per_character": _bits},
            optimizer=_optimizer,
            batch_size=32,
            seed=seed,
        )


class _Network(nn.Module):
    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, EMBEDDING)
        self.gru = nn.GRU(EMBEDDING, HIDDEN, batch_first=True)
        self.output = nn.Linear(HIDDEN, characters)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (n, characters, L) from numbers of characters (n, L)."""
        hidden, _ = self.gru(self.embedding(inputs))
        return self.output(hidden).movedim(-1, 1)


def _bits(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets) / math.log(2)


def _optimizer(hparams: Hparams) -> Optimizer:
    rule = adamw(
        by_layer(hparams["lr"], GROUPS),
        betas=(hparams["beta1"], 0.999),
        weight_decay=by_layer(hparams["weight_decay"], GROUPS),
    )
    return clip_by_norm(rule, hparams["max_norm"])
