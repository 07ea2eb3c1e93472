"""Data as functions: Dupont et al. 2022."""

from collections.abc import Iterator, Sequence
from copy import deepcopy

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
from raymeta.meta import Episode, MetaModule
from raymeta.train.recipes import recipe

LATENTS = (4, 16, 64)
OUTER_STEPS, TASKS = 2_000, 100


def settings(scale: Scale) -> Sequence[str]:
    """A number of latents each."""
    return [f"{n} latents" for n in (LATENTS[:1] if scale.reduced else LATENTS)]


def run(setting: str, seed: int, scale: Scale) -> Iterator[Row]:
    """Signal over noise of images that were not learnt from, by three steps.

    What is tested is the best of ten on validation images, as `raymeta train` has it:
    learnt step sizes come to the edge of stability, and in some runs beyond.
    """
    steps = 10 if scale.reduced else OUTER_STEPS
    config = recipe(
        "functa",
        "digit-functions",
        context=int(setting.split()[0]),
        outer_steps=steps,
        seeds=(seed,),
    )
    module = MetaModule(config.learner(seed))
    val, test = (
        config.family.episodes(0, TASKS, 0, TASKS, seed=0, split=split)
        for split in ("val", "test")
    )
    best, theta = -torch.inf, {}
    for step in learnt(module, config, seed, every=max(1, steps // 10)):
        value = ratio(module, val, 3)
        yield Row("PSNR", step, value)
        if value > best:
            best, theta = value, deepcopy(module.state_dict())
    module.load_state_dict(theta)
    for count in (0, 1, 2, 3, 5, 10):
        yield Row("after steps", count, ratio(module, test, count))


def ratio(module: MetaModule, tasks: Episode, steps: int) -> float:
    """Mean of 10 log10(1 / squared error), values from 0 to 1, in dB."""
    with torch.no_grad():
        losses = module(tasks, steps=steps).losses
    return float((-10 * losses.log10()).mean())


def claims(frame: pd.DataFrame) -> list[Claim]:
    """What the paper says of the method; its images are others."""
    few, some, many = (f"{n} latents" for n in LATENTS)
    last = {name: values(frame, name, "after steps", 3) for name in (few, some, many)}
    none = values(frame, many, "after steps", 0)
    inf = float("inf")
    return [
        Claim(
            "dB gained by three steps, 64 latents",
            "three steps are enough",
            3.0,
            inf,
            [a - b for a, b in zip(last[many], none, strict=True)],
            lower_is_better=False,
        ),
        Claim(
            "dB, 16 latents over 4",
            "more latents are better",
            0.0,
            inf,
            [a - b for a, b in zip(last[some], last[few], strict=True)],
            lower_is_better=False,
        ),
        Claim(
            "dB, 64 latents over 16",
            "more latents are better",
            0.0,
            inf,
            [a - b for a, b in zip(last[many], last[some], strict=True)],
            lower_is_better=False,
        ),
        Claim(
            "dB of new images, 64 latents",
            "30.7 (faces, 64 x 64, 256 latents)",
            20.0,
            inf,
            last[many],
            lower_is_better=False,
        ),
    ]


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Over learning, and over the steps that fit an image."""
    left, right = figure.subplots(1, 2)
    curves(frame, left, "PSNR", xlabel="outer step")
    left.set_ylabel("PSNR of validation images, dB")
    curves(frame, right, "after steps", xlabel="inner steps")
    right.set_ylabel("PSNR of test images, dB")


REPRODUCTION = Reproduction(
    name="functa",
    title="Data as functions",
    paper="Dupont et al. 2022",
    protocol="Not the paper's images: digits of 8 x 8 pixels as functions of their "
    "coordinates, a SIREN with shifts by latents (64 are as many as an image has "
    "pixels), three inner steps with learnt step "
    "sizes, 2,000 outer steps (500,000), of which validation images choose. Statements "
    "are tested, not a table.",
    settings=settings,
    seeds=(0, 1, 2),
    run=run,
    claims=claims,
    draw=draw,
)
