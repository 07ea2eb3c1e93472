"""The data set learnt by 1 to 8 workers: Grefenstette et al. 2019, their example."""

from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.figure import Figure

from jobs.experiments.reproductions.base import (
    Claim,
    Reproduction,
    Row,
    Scale,
    curves,
    values,
)
from jobs.experiments.scaling_runs import FRESH, Measure
from jobs.experiments.scaling_runs import learn as learnt
from jobs.experiments.scaling_runs import settings as config_of
from raymeta.meta import MetaModule

MEASURED = ("meta_loss", "gap_ratio", "best_line", "separable")


def settings(scale: Scale) -> Sequence[str]:
    """By number of workers."""
    return ["2 workers"] if scale.reduced else [f"{w} workers" for w in (1, 2, 4, 8)]


def run(setting: str, seed: int, scale: Scale) -> Iterator[Row]:
    """Of 2,000 fresh classifiers the loss, of the points the separation."""
    workers = int(setting.split()[0])
    config = config_of(0.01, workers, [seed], 20 if scale.reduced else 500)
    module = MetaModule(config.learner(seed))
    measure = Measure(config.family, 100 if scale.reduced else FRESH)
    for step in learnt(module, config, seed, every=config.outer_steps // 10):
        found = measure(module)
        for name in MEASURED:
            yield Row(name.replace("_", " "), step, float(found[name]))


def claims(frame: pd.DataFrame) -> list[Claim]:
    """The article's scatter plots: separation grows with workers, perfect at 8."""
    inf = float("inf")
    found = []
    for workers, low, high in ((1, 0.812, 0.818), (8, -inf, 0.804)):
        loss = values(frame, f"{workers} workers", "meta loss")
        found.append(
            Claim(f"loss of fresh classifiers, {workers} workers", "–", low, high, loss)
        )
    return [
        *found,
        Claim(
            "gap over deviation within classes, 8 workers",
            "well apart",
            5.0,
            inf,
            values(frame, "8 workers", "gap ratio"),
            False,
        ),
        Claim(
            "share of seeds separable, 8 workers",
            "1 (one figure)",
            0.99,
            1.0,
            values(frame, "8 workers", "separable"),
            False,
            "after 500 steps one or two points lie across in half of the seeds; after "
            "1,000 all are separable (docs/results.md)",
        ),
        Claim(
            "loss with 8 workers minus that with 1",
            "below 0",
            -inf,
            0.0,
            [
                b - a
                for a, b in zip(
                    *(values(frame, f"{w} workers", "meta loss") for w in (1, 8)),
                    strict=True,
                )
            ],
        ),
    ]


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Losses and separation by outer step."""
    left, right = figure.subplots(1, 2)
    curves(frame, left, "meta loss", xlabel="outer step")
    curves(frame, right, "gap ratio", xlabel="outer step")


REPRODUCTION = Reproduction(
    name="learned-dataset",
    title="A data set learnt by 1 to 8 workers",
    paper="Grefenstette et al. 2019",
    protocol="As published: 100 points, 500 outer steps of Adam(.01), three inner "
    "steps of SGD(.01). The draws of the workers are averaged in one process; real "
    "workers on Ray learn the same points to 1e-5 (`python -m "
    "jobs.experiments.scaling`).",
    settings=settings,
    seeds=(0, 1, 2),
    run=run,
    claims=claims,
    draw=draw,
)
