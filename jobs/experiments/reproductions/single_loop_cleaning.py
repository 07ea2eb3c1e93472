"""Data hyper-cleaning in one loop, in the protocol of Shen & Chen 2023 (V-PBGD)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import raymeta
from jobs.experiments.reproductions.base import (
    Claim,
    Reproduction,
    Row,
    Scale,
    curves,
    values,
)
from jobs.experiments.reproductions.hyper_cleaning import Data, data, f1
from jobs.experiments.reproductions.mnist import error
from raymeta.types import Hparams, Tensors

#: Network -> what V-PBGD and the best of five others report, test accuracy in per cent.
PUBLISHED = {
    "linear": ("90.48 (IAPTT 90.44, RHG 87.64)", 90.0),
    "MLP": ("94.58 (G-PBGD 92.17, RHG 87.50)", 94.0),
}
#: Learning rates of the training.
LR = {"linear": 0.1, "MLP": 0.5}
BATCH, STEPS, RUNS, HYPER_STEPS = 500, 2_000, 4, 100
#: Gradient evaluations of a run: 6 by step, those of 5,000 validation images and of the
#: derivative in λ by hyper-step.
RUN = 6 * STEPS + 12 * HYPER_STEPS


@dataclass(frozen=True)
class Cleaning:
    """Example weights in (0, 1), by one run after the other that learns them.

    Attributes:
        found: the images.
        network: a key of `PUBLISHED`.
        seed: of the initial weights.
        horizon: T.
    """

    found: Data
    network: str
    seed: int
    horizon: int = STEPS
    name: str = "cleaning"

    @property
    def budget(self) -> float:
        """Gradient evaluations of some runs."""
        return RUNS * RUN * self.horizon / STEPS

    @property
    def space(self) -> raymeta.Space:
        """Each weight starts at 1/2."""
        shape = (len(self.found.train),)
        return raymeta.Space(weights=raymeta.Unit(0.5, 1e-3, 1 - 1e-3, shape=shape))

    def sample(self, seed: int) -> raymeta.BilevelProblem:
        """The same for every seed but for the order of the batches."""
        batch = min(BATCH, len(self.found.train) // 2)
        return raymeta.module_problem(
            network(self.network, self.seed),
            loss=F.cross_entropy,
            train=self.found.train,
            val=self.found.val,
            batch_size=batch,
            train_loss=weighted,
            regularizer=decay,
            optimizer=lambda h: raymeta.optim.sgd(LR[self.network], momentum=0.9),
            val_batch_size=batch,
            val_batches=1,
            seed=seed,
        )


def network(name: str, seed: int) -> nn.Module:
    """Softmax regression from 0, or 784-300-10 with sigmoids."""
    if name == "linear":
        linear = nn.Linear(784, 10)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        return linear
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(784, 300), nn.Sigmoid(), nn.Linear(300, 10))


def weighted(outputs: Tensor, targets: Tensor, h: Hparams, index: Tensor) -> Tensor:
    """The mean of λ_i ℓ_i over a batch."""
    each = F.cross_entropy(outputs, targets, reduction="none")
    return (h["weights"][index] * each).mean()


def decay(weights: Tensors, h: Hparams) -> Tensor:
    """A penalty of .001 |w|², so that there is one minimum."""
    squares = [w.square().sum() for w in weights.values()]
    return 1e-3 * torch.stack(squares).sum()


def settings(scale: Scale) -> Sequence[str]:
    """A network each."""
    return ["linear"] if scale.reduced else list(PUBLISHED)


def run(setting: str, seed: int, scale: Scale) -> Iterator[Row]:
    """Validation loss on the way; test accuracy, and F1 of λ < 1/2, at its least."""
    found = data(seed, scale)
    steps = STEPS // 40 if scale.reduced else STEPS
    task = Cleaning(found, setting, seed, steps)
    estimator = raymeta.hypergrad.SOBA(steps // HYPER_STEPS or 1)
    result = raymeta.optimize(task, estimator, seed=seed, progress=False)
    for report in result.reports:
        yield Row("validation loss", report.gradient_evals, report.outer_loss)
    weights, net = result.hparams["weights"], result.module()
    with torch.no_grad():
        yield Row("test accuracy", 0, 100 - error(net, found.test))
    yield Row("F1", 0, f1(weights < 0.5, found.wrong))


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Table 2 of the paper."""
    inf = float("inf")
    return [
        *(
            Claim(
                f"test accuracy %, {name}",
                published,
                low,
                inf,
                values(frame, name, "test accuracy"),
                lower_is_better=False,
                remark="the validation loss still falls where the four runs end",
            )
            for name, (published, low) in PUBLISHED.items()
        ),
        Claim(
            "F1 of λ < 1/2, linear",
            "not reported alike",
            0.9,
            inf,
            values(frame, "linear", "F1"),
            lower_is_better=False,
        ),
    ]


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Validation loss over what it cost."""
    curves(frame, figure.subplots(), "validation loss", xlabel="gradient evaluations")


REPRODUCTION = Reproduction(
    name="single-loop-cleaning",
    title="Data hyper-cleaning in one loop",
    paper="Dagréou et al. 2022 (SOBA); protocol of Shen & Chen 2023 (V-PBGD)",
    protocol="5,000 images of MNIST, half of them mislabelled, 5,000 for validation, "
    "10,000 for tests; a weight in (0, 1) for each example; softmax regression, and "
    "784-300-10 with sigmoids. Four runs of 2,000 steps of SGD(.9) on batches of 500, "
    "each with 100 hyper-steps by SOBA, from batches of 500 validation images.",
    settings=settings,
    seeds=(0, 1, 2),
    run=run,
    claims=claims,
    draw=draw,
)
