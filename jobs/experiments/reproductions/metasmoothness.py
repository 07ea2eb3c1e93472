"""Metasmoothness and the success of descent: Engstrom et al. 2025 (2503.13751)."""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import nn
from torch.utils.data import TensorDataset

import raymeta
from jobs.experiments.reproductions.base import Claim, Reproduction, Row, Scale
from raymeta.data import digits, split
from raymeta.problem import BilevelProblem

ACTIVATIONS = {"ReLU": nn.ReLU, "GELU": nn.GELU, "tanh": nn.Tanh}
RATES, NORMS = (0.05, 0.5, 2.0), (False, True)
STEPS = 60


class Network:
    """Weights of 100 examples of digits, whose labels are partly wrong.

    Args:
        activation: of `ACTIVATIONS`.
        rate: learning rate of its training.
        norm: a layer norm before the activation.
    """

    horizon, budget, name = STEPS, 20.0 * STEPS, "network"

    def __init__(self, activation: str, rate: float, norm: bool) -> None:
        self.activation, self.rate, self.norm = activation, rate, norm
        self.space = raymeta.Space(
            weights=raymeta.Unit(0.5, low=1e-3, high=0.999, shape=(100,))
        )

    def sample(self, seed: int) -> BilevelProblem:
        """Half of the 100 labels are random."""
        parts = split(*digits(), fractions=(0.1, 0.3), seed=seed)
        torch.manual_seed(seed)
        x, y = (part[:100] for part in parts.train.tensors)
        y = torch.where(torch.rand(100) < 0.5, torch.randint(0, 10, (100,)), y)
        layers = [nn.Linear(64, 32), ACTIVATIONS[self.activation](), nn.Linear(32, 10)]
        if self.norm:
            layers.insert(1, nn.LayerNorm(32))
        return raymeta.module_problem(
            nn.Sequential(*layers),
            loss=nn.functional.cross_entropy,
            train=TensorDataset(x, y),
            val=parts.val,
            seed=seed,
            train_loss=lambda out, y, h, index: raymeta.modules.smoothed_cross_entropy(
                out, y, weights=h["weights"][index]
            ),
            optimizer=lambda h: raymeta.optim.sgd(self.rate, momentum=0.9),
        )


def settings(scale: Scale) -> Sequence[str]:
    """Activation, learning rate, with and without a layer norm."""
    if scale.reduced:
        return ["ReLU 0.5 plain"]
    return [
        f"{activation} {rate:g} {'norm' if norm else 'plain'}"
        for activation in ACTIVATIONS
        for rate in RATES
        for norm in NORMS
    ]


def run(setting: str, seed: int, scale: Scale) -> Iterator[Row]:
    """Metasmoothness at the start, and how far ten steps of a fixed length descend."""
    activation, rate, norm = setting.split()
    task = Network(activation, float(rate), norm == "norm")
    yield Row("metasmoothness", 0, raymeta.diagnose(task, seed=seed).smoothness)
    problem, x = task.sample(seed), torch.zeros(100)
    losses = []
    for _ in range(3 if scale.reduced else 20):
        at = {"weights": x.sigmoid()}
        found = raymeta.hypergradient(problem, at, raymeta.hypergrad.Reverse(STEPS))
        losses.append(float(found.outer_loss))
        slope = found.grads["weights"] * at["weights"] * (1 - at["weights"])
        x = x - 0.3 * slope.sign()
    for i, loss in enumerate(losses):
        yield Row("outer loss", i, loss)
    yield Row("progress", 0, 1 - losses[-1] / losses[0])


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Figure 5: the smoother, the more a descent gets out of it."""
    ranks = []
    for _, table in frame.groupby("seed"):
        wide = table[table["metric"].isin(["metasmoothness", "progress"])].pivot_table(
            index="setting", columns="metric", values="value"
        )
        ranks.append(
            float(stats.spearmanr(wide["metasmoothness"], wide["progress"]).statistic)
            if len(wide) > 2
            else float("nan")
        )
    smooth = frame[frame["metric"] == "metasmoothness"]
    gelu, relu = (
        smooth[smooth["setting"].str.startswith(name)].groupby("seed")["value"].mean()
        for name in ("GELU", "ReLU")
    )
    return [
        Claim(
            "Spearman of metasmoothness and progress over 18 networks",
            "positive",
            0.3,
            1.0,
            ranks,
            False,
        ),
        Claim(
            "metasmoothness, GELU minus ReLU",
            "positive",
            0.0,
            2.0,
            (gelu - relu).tolist(),
            False,
        ),
    ]


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Progress by metasmoothness, a point for each network and seed."""
    axes = figure.subplots()
    wide = frame[frame["metric"].isin(["metasmoothness", "progress"])].pivot_table(
        index=["setting", "seed"], columns="metric", values="value"
    )
    for k, name in enumerate(ACTIVATIONS):
        rows = wide[wide.index.get_level_values(0).str.startswith(name)]
        axes.scatter(
            rows["metasmoothness"], rows["progress"], color=f"C{k}", s=14, label=name
        )
    axes.set(xlabel="metasmoothness", ylabel="share of E gone after 20 steps")
    axes.legend()


REPRODUCTION = Reproduction(
    name="metasmoothness",
    title="Metasmoothness and the success of descent",
    paper="Engstrom et al. 2025",
    protocol="Not the paper's vision models: 18 small networks on digits with 100 "
    "example weights, half of the labels random; 20 steps of signs of the gradient.",
    settings=settings,
    seeds=(0, 1, 2),
    run=run,
    claims=claims,
    draw=draw,
)
