r"""A transformer of 10 million parameters, tuned on a text file by two workers.

    python -m jobs.experiments.text_transformer   # writes the text
    raymeta optimize --task jobs/experiments/text_transformer.py:TextTransformer \
        --estimator jobs/experiments/text_transformer.py:estimator \
        --budget 6000 --workers 2 --name text-transformer

The text is the language reference that Python's `help` shows, 465 thousand characters
in version 3.11 (PSF licence). λ are a learning rate for each block, embedding and head,
weight decay, warm-up and β2 of AdamW; the start is torch's defaults with a warm-up over
a tenth of the run.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from pydoc_data.topics import topics
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Subset

from jobs.benchmarks.ranks import Blocks
from raymeta.data import split
from raymeta.data.text import passages, text
from raymeta.hypergrad import Checkpointed
from raymeta.modules import module_problem
from raymeta.optim import Optimizer, Schedule, adamw
from raymeta.problem import BilevelProblem
from raymeta.space import Positive, Space, Unit
from raymeta.tasks.networks import seeded
from raymeta.types import Hparams

FILE = Path("results/language_reference.txt")
WIDTH, DEPTH, LENGTH = 384, 6, 64


@dataclass(frozen=True, kw_only=True)
class TextTransformer:
    """Learn rates of blocks, weight decay, warm-up and β2 of AdamW.

    Attributes:
        path: path of a text in UTF-8.
        horizon: T, training steps of a full run, on 4 passages of 64 characters each.
        budget: gradient evaluations.
    """

    # Absolute, since workers stand elsewhere.
    path: str = field(default_factory=lambda: str(FILE.resolve()))
    horizon: int = 300
    budget: float = 6000.0
    name: str = "text-transformer"
    source: ClassVar[str] = "the language reference of Python's help"
    licence: ClassVar[str] = "PSF"

    @property
    def space(self) -> Space:
        """Starts at torch's defaults, with a warm-up over a tenth of the run."""
        return Space(
            lr=Positive(1e-3, low=1e-5, high=1e-1, shape=(DEPTH + 2,)),
            weight_decay=Positive(1e-2, low=1e-4, high=10.0),
            warmup=Positive(self.horizon / 10, low=1.0, high=float(self.horizon)),
            beta2=Unit(0.999, low=0.5, high=0.9999),
        )

    def sample(self, seed: int) -> BilevelProblem:
        """A new split, initialization and batch order."""
        inputs, targets, characters = passages(text(self.path), LENGTH)
        parts = split(inputs, targets, fractions=(0.9, 0.05), seed=seed)
        some = range(64)
        return module_problem(
            seeded(lambda: Blocks(WIDTH, DEPTH, len(characters), LENGTH), seed),
            loss=F.cross_entropy,
            train=parts.train,
            val=Subset(parts.val, some),
            val_batch_size=16,
            test=Subset(parts.test, some),
            metrics={"bits_per_character": _bits},
            batch_size=4,
            optimizer=self._optimizer,
            seed=seed,
        )

    def _optimizer(self, hparams: Hparams) -> Optimizer:
        t = torch.arange(1.0, self.horizon + 1)
        ramp = (t / hparams["warmup"]).clamp(max=1.0)
        rates = [Schedule(rate * ramp) for rate in hparams["lr"]]
        lr = {"embedding": rates[0], "place": rates[0], "head": rates[-1]}
        for i, rate in enumerate(rates[1:-1]):
            lr |= {f"norms.{2 * i}": rate, f"norms.{2 * i + 1}": rate}
            lr |= {f"attention.{i}": rate, f"perceptrons.{i}": rate}
        return adamw(
            lr,
            betas=(0.9, hparams["beta2"]),
            weight_decay=hparams["weight_decay"],
            # Keeps the derivative in bounds where single gradients vanish.
            eps_root=1e-8,
        )


def estimator(horizon: int) -> Checkpointed:
    """A gigabyte of states on each worker, of 130 MB each."""
    return Checkpointed(horizon, memory="1GB")


def _bits(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets) / math.log(2)


def main() -> None:
    """Write the text."""
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text("\n\n".join(topics[name] for name in sorted(topics)), "utf-8")
    print(f"written: {FILE}")


if __name__ == "__main__":
    main()
