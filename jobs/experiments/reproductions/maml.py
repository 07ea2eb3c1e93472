"""MAML and CAVIA on sinusoids: Finn et al. 2017; Zintgraf et al. 2019."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from jobs.experiments.reproductions.base import (
    Claim,
    Reproduction,
    Row,
    Scale,
    curves,
    values,
)
from jobs.experiments.scaling_runs import learn as learnt
from raymeta.meta import MetaModule
from raymeta.train.recipes import recipe

TASKS, AFTER = 600, (1, 2, 5, 10)
OUTER_STEPS = {"MAML": 20_000, "CAVIA, 5 parameters": 5_000}


def settings(scale: Scale) -> Sequence[str]:
    """An algorithm each."""
    return ["MAML"] if scale.reduced else list(OUTER_STEPS)


def run(setting: str, seed: int, scale: Scale) -> Iterator[Row]:
    """Squared error of 600 test tasks after 1 step, as it is learnt, and after more."""
    steps = 20 if scale.reduced else OUTER_STEPS[setting]
    common: dict[str, Any] = {
        "seeds": (seed,),
        "outer_steps": steps,
        "tasks_per_step": 25,
    }
    if setting == "MAML":
        config = recipe(
            "maml", "sinusoid", shots=10, queries=10, inner_lr=0.01, **common
        )
    else:
        config = recipe("cavia", "sinusoid", context=5, **common)
    module = MetaModule(config.learner(seed), compile=not scale.reduced)
    test = config.family.episodes(0, TASKS, 0, TASKS, seed=0, split="test")
    for step in learnt(module, config, seed, every=max(1, steps // 10)):
        with torch.no_grad():
            yield Row("squared error", step, float(module(test, steps=1).loss))
    with torch.no_grad():
        for count in AFTER:
            losses = module(test, steps=count).losses
            yield Row("after steps", count, float(losses.mean()))
            yield Row("median after steps", count, float(losses.median()))


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Figure 3 of MAML; Table 1 of CAVIA."""
    inf = float("inf")
    return [
        Claim(
            "MAML, squared error after 1 step, 20,000 iterations",
            "≈ .49",
            -inf,
            0.55,
            values(frame, "MAML", "after steps", 1),
        ),
        Claim(
            "MAML, squared error after 10 steps",
            "≈ .14",
            -inf,
            0.20,
            values(frame, "MAML", "after steps", 10),
            remark="after one step of training MAML is at the edge of stability: a few "
            "of 600 tasks diverge in ten, and carry the mean",
        ),
        Claim(
            "MAML, median over tasks after 10 steps",
            "not reported",
            -inf,
            0.20,
            values(frame, "MAML", "median after steps", 10),
        ),
        Claim(
            "CAVIA, 5 parameters, 5,000 iterations",
            ".19 ± .02 at 50,000",
            0.15,
            0.28,
            values(frame, "CAVIA, 5 parameters", "after steps", 1),
        ),
    ]


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Learning curves, and adaptation."""
    left, right = figure.subplots(1, 2)
    curves(frame, left, "squared error", xlabel="outer step")
    left.set_yscale("log")
    curves(frame, right, "after steps", xlabel="inner steps")
    right.set_yscale("log")


REPRODUCTION = Reproduction(
    name="maml",
    title="MAML and CAVIA on sinusoids",
    paper="Finn et al. 2017; Zintgraf et al. 2019",
    protocol="As published but for the number of iterations: 20,000 of 70,000, and "
    "5,000 of 50,000. CAVIA at its full length is in "
    "[Results](results.md#meta-learning).",
    settings=settings,
    seeds=(0, 1, 2),
    run=run,
    claims=claims,
    draw=draw,
)
