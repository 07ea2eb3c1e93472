"""Truncated backpropagation: Shaban et al. 2019, sections 3 and 5."""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
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
from raymeta.problem import BilevelProblem

EXAMPLES, DIMENSIONS, LR, STEPS = 500, 20, 0.1, 100
WINDOWS = (1, 5, 10, 20, 40, 60)


def regression(seed: int) -> BilevelProblem:
    """Logistic regression with a penalty per weight, λ = exp x, in float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2 * EXAMPLES, DIMENSIONS, generator=generator, dtype=torch.float64)
    truth = torch.randn(DIMENSIONS, generator=generator, dtype=torch.float64)
    noise = torch.randn(2 * EXAMPLES, generator=generator, dtype=torch.float64)
    y = (x @ truth + 2 * noise > 0).double()

    def loss(w: Tensor, rows: slice) -> Tensor:
        return F.binary_cross_entropy_with_logits(x[rows] @ w, y[rows])

    train, val = slice(0, EXAMPLES), slice(EXAMPLES, None)
    return raymeta.descent(
        init_params=lambda h: {"w": torch.zeros(DIMENSIONS, dtype=torch.float64)},
        inner_loss=lambda w, h, b: (
            loss(w["w"], train) + 0.5 * (h["log_penalty"].exp() * w["w"].square()).sum()
        ),
        outer_loss=lambda w, h: loss(w["w"], val),
        optimizer=lambda h: raymeta.optim.sgd(LR),
    )


def settings(scale: Scale) -> Sequence[str]:
    """Errors by window at one point; descents by truncated and by full gradients."""
    if scale.reduced:
        return ["errors"]
    return ["errors", "descent, full", "descent, 10 steps", "descent, 1 step"]


def run(setting: str, seed: int, scale: Scale) -> Iterator[Row]:
    """The error of K-step gradients over the bound (1 - α m)^K; or a descent."""
    problem = regression(seed)
    hparams = {"log_penalty": torch.zeros(DIMENSIONS, dtype=torch.float64)}
    if setting == "errors":
        full = raymeta.hypergradient(problem, hparams, raymeta.hypergrad.Reverse(STEPS))
        g = full.grads["log_penalty"]
        for window in WINDOWS:
            cut = raymeta.hypergrad.Truncated(STEPS, window)
            short = raymeta.hypergradient(problem, hparams, cut).grads["log_penalty"]
            yield Row("relative error", window, float((short - g).norm() / g.norm()))
            cosine = F.cosine_similarity(short, g, dim=0)
            yield Row("cosine", window, float(cosine))
        return
    window = {"full": STEPS, "10 steps": 10, "1 step": 1}[setting.split(", ")[1]]
    estimator = raymeta.hypergrad.Truncated(STEPS, window)
    for i in range(101):
        found = raymeta.hypergradient(problem, hparams, estimator)
        yield Row("validation loss", i, float(found.outer_loss))
        hparams = {
            name: x - 100 * found.grads[name].clamp(-0.01, 0.01)
            for name, x in hparams.items()
        }


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Proposition 3.1: the error falls as (1 - α m)^K; section 5: K ≪ T suffices."""
    inf = float("inf")
    shorter, longer = (values(frame, "errors", "relative error", k) for k in (10, 40))
    rates = [(b / a) ** (1 / 30) for a, b in zip(shorter, longer, strict=True)]
    cosines = frame[frame["metric"] == "cosine"].groupby("seed")["value"].min().tolist()
    full = values(frame, "descent, full", "validation loss", 100)
    cut = values(frame, "descent, 10 steps", "validation loss", 100)
    # The penalty's Hessian is at least 1, so that the error of K steps is at most
    # (1 - α)^K times a constant.
    return [
        Claim(
            "error by a step of the window, K = 10 to 40",
            "at most 1 - α m = .9",
            -inf,
            1 - LR,
            rates,
        ),
        Claim("least cosine with the full gradient", "> 0", 0.0, 1.0, cosines, False),
        Claim(
            "validation loss after 100 steps, K = 10 over full",
            "≈ 1",
            0.99,
            1.01,
            [a / b for a, b in zip(cut, full, strict=True)],
            remark="slopes of ten steps are biased: they lead to another point",
        ),
    ]


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Errors by window, descents by hyper-step."""
    left, right = figure.subplots(1, 2)
    curves(frame, left, "relative error", xlabel="window K")
    left.set_yscale("log")
    curves(frame, right, "validation loss", xlabel="hyper-step")


REPRODUCTION = Reproduction(
    name="truncation",
    title="Truncated backpropagation",
    paper="Shaban et al. 2019",
    protocol="Logistic regression with a penalty for each of 20 weights, 500 + 500 "
    "random examples, T = 100 steps of .1: the statements are tested, not a table.",
    settings=settings,
    seeds=(0, 1, 2),
    run=run,
    claims=claims,
    draw=draw,
)
