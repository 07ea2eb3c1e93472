"""Forward-over-reverse on a quadratic: exact, improving, memory constant in T."""

from collections.abc import Iterator, Sequence
from functools import partial

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

import raymeta
from jobs.benchmarks.memory import peak_bytes
from jobs.experiments.reproductions.base import Claim, Reproduction, Row, Scale, values
from raymeta.problem import BilevelProblem

EIGENVALUES, STEPS, HYPER_STEPS = (1.0, 4.0, 10.0), 20, 300
#: Dimensions where memory is measured, so that states outweigh what is around them.
WIDE, LENGTHS = 100_000, (20, 40, 80)
ONLINE_STEPS, HYPER_LR = 100, 1e-4
ALPHAS = (1e-4, 1e-3, 5e-3, 5e-2)
BEST_LOSS = 2.671e-4


def quadratic(eigenvalues: Tensor) -> BilevelProblem:
    """f(w) = ½ Σ λ_i w_i², by gradient descent from w = 1."""

    def loss(w: dict[str, Tensor], *_: object) -> Tensor:
        return 0.5 * (eigenvalues * w["w"].square()).sum()

    return raymeta.descent(
        init_params=lambda h: {"w": torch.ones_like(eigenvalues)},
        inner_loss=loss,
        outer_loss=loss,
        optimizer=lambda h: raymeta.optim.sgd(h["lr"]),
    )


def settings(scale: Scale) -> Sequence[str]:
    """The optimum by long runs, online learning rates, memory by length of run."""
    return ["long"] if scale.reduced else ["long", "online", "memory"]


def run(setting: str, seed: int, scale: Scale) -> Iterator[Row]:
    """See each of the three."""
    if setting == "long":
        return long(10 if scale.reduced else HYPER_STEPS)
    return {"online": online, "memory": memory}[setting]()


def long(hyper_steps: int) -> Iterator[Row]:
    """Forward mode through T = 20 from α = .01: loss curves, and where it ends."""
    eigenvalues = torch.tensor(EIGENVALUES, dtype=torch.float64)
    problem, x = quadratic(eigenvalues), torch.tensor(0.01, dtype=torch.float64).log()
    for i in range(hyper_steps):
        alpha = x.exp()
        estimator = raymeta.hypergrad.Forward(STEPS)
        found = raymeta.hypergradient(problem, {"lr": alpha}, estimator)
        shrunk = (1 - alpha * eigenvalues) ** (2 * STEPS - 1)
        terms = -STEPS * eigenvalues.square() * shrunk
        yield Row("outer loss", i, float(found.outer_loss))
        yield Row("learning rate", i, float(alpha))
        yield Row(
            "error",
            i,
            float((found.grads["lr"] - terms.sum()).abs() / terms.abs().sum()),
        )
        slope = float(found.grads["lr"] * alpha / found.outer_loss)  # of log E in log α
        longest = 0.3 * 0.97**i  # E rises steeply beyond the optimum
        x = x - max(-longest, min(longest, 0.1 * slope))


def online() -> Iterator[Row]:
    """100 steps of SGD-HD with β = 1e-4 over those of SGD, by α_0."""
    below = quadratic(torch.tensor(EIGENVALUES, dtype=torch.float64))
    for alpha in ALPHAS:
        start = {"lr": torch.tensor(alpha, dtype=torch.float64)}
        tower = raymeta.tower(
            below, start, lambda k: raymeta.optim.sgd(k["beta"]), loss="next_batch"
        )
        beta = {"beta": torch.tensor(HYPER_LR, dtype=torch.float64)}
        learnt, plain = tower.init(beta), below.init(start)
        for t in range(ONLINE_STEPS):
            learnt = tower.step(learnt, beta, tower.batch(t))
            plain = below.step(plain, start, below.batch(t))
        fixed = float(below.outer_loss(plain, start))
        yield Row("fixed", alpha, fixed)
        yield Row("ratio", alpha, float(tower.outer_loss(learnt, beta)) / fixed)


def memory() -> Iterator[Row]:
    """Peak bytes of tensors beyond the start, by T: forward and reverse mode."""
    problem = quadratic(torch.linspace(1, 10, WIDE))
    for kind in (raymeta.hypergrad.Forward, raymeta.hypergrad.Reverse):
        # What the first estimate of a problem checks is not memory of the run.
        raymeta.hypergradient(problem, {"lr": torch.tensor(0.01)}, kind(1))
        for steps in LENGTHS:
            estimator = kind(steps)
            at = {"lr": torch.tensor(0.01)}
            peak = peak_bytes(partial(raymeta.hypergradient, problem, at, estimator))
            yield Row(f"peak of {kind.__name__}", steps, float(peak))


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Closed forms: the optimum, the slope, memory."""
    inf = float("inf")
    errors = frame[frame["metric"] == "error"].groupby("seed")["value"].max().tolist()
    first, losses, rates = (
        values(frame, "long", "outer loss", 0),
        values(frame, "long", "outer loss"),
        values(frame, "long", "learning rate"),
    )
    found = [
        Claim("E at α = .01", ".7991", 0.7990, 0.7992, first),
        Claim("largest relative error of dE/dα", "0", -inf, 1e-10, errors),
        Claim("E of the learnt α", "2.671e-4", 2.67e-4, 2.68e-4, losses),
        Claim("the learnt α", ".1735", 0.1730, 0.1740, rates),
    ]
    for alpha in ALPHAS:
        statement = f"online over fixed after 100 steps, α₀ = {alpha:g}"
        ratio = values(frame, "online", "ratio", alpha)
        found.append(Claim(statement, "below 1", -inf, 1.0, ratio))
    short, long = LENGTHS[0], LENGTHS[-1]
    for kind, published, low, high in (
        ("Forward", "1", 0.99, 1.01),
        ("Reverse", f"{long / short:g}", 0.8 * long / short, 1.1 * long / short),
    ):
        peak = f"peak of {kind}"
        start, end = (values(frame, "memory", peak, t) for t in (short, long))
        growth = [b / a for a, b in zip(start, end, strict=True)]
        statement = f"peak memory, T = {long} over T = {short}, {kind}"
        found.append(Claim(statement, published, low, high, growth))
    return found


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """E by hyper-step; memory by T."""
    left, right = figure.subplots(1, 2)
    losses = frame[frame["metric"] == "outer loss"].sort_values("step")
    left.plot(losses["step"], losses["value"])
    left.axhline(BEST_LOSS, color="0.5", lw=0.8)
    left.set(xlabel="hyper-step", ylabel="E after 20 steps", yscale="log")
    for kind in ("Forward", "Reverse"):
        rows = frame[frame["metric"] == f"peak of {kind}"].sort_values("step")
        right.plot(rows["step"], rows["value"] / 1e6, marker="o", label=kind)
    right.set(xlabel="T", ylabel="peak memory, MB")
    right.legend()


REPRODUCTION = Reproduction(
    name="quadratic",
    title="Forward-over-reverse on a quadratic",
    paper="Closed forms; Franceschi et al. 2017, section 3.2",
    protocol="Eigenvalues 1, 4, 10, T = 20, in float64; for memory 100,000 dimensions.",
    settings=settings,
    seeds=(0,),
    run=run,
    claims=claims,
    draw=draw,
)
