"""Influence balancing: Vicol et al. 2021, section 5.1; Tallec & Ollivier 2017."""

from collections.abc import Callable, Iterator, Sequence

import pandas as pd
import torch
from matplotlib.figure import Figure

import raymeta
from jobs.experiments.reproductions.base import (
    Claim,
    Reproduction,
    Row,
    Scale,
    curves,
    values,
)
from raymeta.hypergrad import Estimator
from raymeta.problem import BilevelProblem

N, POSITIVE, RATE, JUDGED = 23, 10, 1e-4, 500
ESTIMATORS: dict[str, Callable[[int], Estimator]] = {
    "PES": lambda seed: raymeta.hypergrad.PES(1, 0.1, pairs=500, seed=seed),
    "truncated, 1 step": lambda seed: raymeta.hypergrad.ShortTerm(1),
    "truncated, 10 steps": lambda seed: raymeta.hypergrad.ShortTerm(10),
    "real-time, forward mode": lambda seed: raymeta.hypergrad.Forward(1),
}


def influence_balancing() -> BilevelProblem:
    """θ acts positively on 10 of 23 states: so at first, and negatively in the end."""
    matrix = 0.5 * torch.eye(N) + 0.5 * torch.diag(torch.ones(N - 1), 1)
    signs = torch.cat([torch.ones(POSITIVE), -torch.ones(N - POSITIVE)])
    return raymeta.BilevelProblem(
        init=lambda h: torch.ones(N),
        step=lambda s, h, b: matrix @ s + h["theta"] * signs,
        outer_loss=lambda s, h: 0.5 * (s[0] - 1).square(),
    )


def settings(scale: Scale) -> Sequence[str]:
    """An estimator each."""
    return ["PES"] if scale.reduced else list(ESTIMATORS)


def run(setting: str, seed: int, scale: Scale) -> Iterator[Row]:
    """E in the limit, over that at θ = .5, while θ is learnt by SGD(1e-4)."""
    problem, estimator = influence_balancing(), ESTIMATORS[setting](seed)
    hparams = {"theta": torch.tensor(0.5)}
    whole = raymeta.hypergrad.Truncated(JUDGED, window=1)
    before = float(raymeta.hypergradient(problem, hparams, whole).outer_loss)
    rollout = estimator.init(problem, hparams)
    for i in range(40 if scale.reduced else 1000):
        result, rollout = estimator.estimate(problem, hparams, rollout)
        hparams = {"theta": hparams["theta"] - RATE * result.grads["theta"]}
        if (i + 1) % 20 == 0:
            after = raymeta.hypergradient(problem, hparams, whole).outer_loss
            yield Row("loss over the first", i + 1, float(after) / before)


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Figure 4: PES and RTRL converge, truncation diverges."""
    inf = float("inf")

    def ends(setting: str) -> list[float]:
        return values(frame, setting, "loss over the first", 1000)

    return [
        Claim("final loss over the first, PES", "converges", -inf, 0.05, ends("PES")),
        Claim(
            "final loss over the first, forward mode online (RTRL)",
            "converges",
            -inf,
            0.05,
            ends("real-time, forward mode"),
        ),
        Claim(
            "final loss over the first, truncated to 1 step",
            "diverges",
            1.0,
            inf,
            ends("truncated, 1 step"),
        ),
        Claim(
            "final loss over the first, truncated to 10 steps",
            "diverges",
            1.0,
            inf,
            ends("truncated, 10 steps"),
        ),
    ]


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Losses by iteration."""
    axes = figure.subplots()
    curves(frame, axes, "loss over the first", xlabel="iteration")
    axes.set_yscale("log")


REPRODUCTION = Reproduction(
    name="influence-balancing",
    title="Truncation fails, PES does not",
    paper="Vicol, Metz & Sohl-Dickstein 2021",
    protocol="n = 23 states, 10 positive; one step an estimate, SGD(1e-4) from θ = "
    ".5, σ = .1, as published; 500 antithetic pairs.",
    settings=settings,
    seeds=(0, 1, 2),
    run=run,
    claims=claims,
    draw=draw,
)
