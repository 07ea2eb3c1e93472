"""Few-shot classification of characters: Finn et al. 2017 and those after."""

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

#: Algorithm -> what was published for five classes of one example, in per cent.
PUBLISHED = {
    "maml": "98.7 ± .4 (Finn et al. 2017)",
    "fomaml": "98.3 ± .5 (Nichol et al. 2018)",
    "reptile": "97.7 (Nichol et al. 2018)",
    "lslr": "99.5 ± .3 (MAML++, Antoniou et al. 2019)",
    "protonet": "98.8 (Snell et al. 2017)",
    "anil": "like MAML (Raghu et al. 2020)",
    "boil": "like MAML (Oh et al. 2021)",
}
OUTER_STEPS, TASKS, AT_ONCE = 400, 200, 4
WHY = (
    "learnt from 81 characters in 400 steps of 4 tasks (published: 1,200 in 60,000); "
    "first-order ones learn least by then"
)


def settings(scale: Scale) -> Sequence[str]:
    """An algorithm each."""
    return ["protonet"] if scale.reduced else list(PUBLISHED)


def run(setting: str, seed: int, scale: Scale) -> Iterator[Row]:
    """Accuracy on 200 tasks of characters that were not learnt from."""
    steps = 5 if scale.reduced else OUTER_STEPS
    if scale.omniglot is None and not scale.reduced:
        raise ValueError(
            "few-shot reads Omniglot's characters, but got no --omniglot: give a "
            "folder or a zip archive of alphabet/character/drawing.png"
        )
    data: dict[str, Any] = {"data": scale.omniglot} if scale.omniglot else {}
    config = recipe(
        setting,
        "omniglot" if data else "few-shot-digits",
        ways=5 if data else None,
        shots=1,
        queries=5,
        outer_steps=steps,
        tasks_per_step=AT_ONCE,
        seeds=(seed,),
        **data,
    )
    module = MetaModule(config.learner(seed))
    for step in learnt(module, config, seed, every=max(1, steps // 8)):
        yield Row("accuracy", step, accuracy(module, config.family, "val", 40))
    module.eval()
    for count in (0, 1, 5, 50) if setting == "reptile" else (0, 1, 5):
        value = accuracy(module, config.family, "test", TASKS, count)
        yield Row("after steps", count, value)
    yield Row("test accuracy", 0, accuracy(module, config.family, "test", TASKS))


def accuracy(
    module: MetaModule, family: Any, split: str, count: int, steps: int | None = None
) -> float:
    """In per cent, over tasks, a few of them at a time."""
    means = []
    for start in range(0, count, 20):
        tasks = family.episodes(0, count, start, start + 20, seed=0, split=split)
        with torch.no_grad():
            means.append(module(tasks, steps=steps).metrics["accuracy"].mean())
    return 100 * float(torch.stack(means).mean())


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Accuracies, five classes of one example each."""
    found = [
        Claim(
            f"accuracy %, {name}",
            published,
            95.0,
            100.0,
            values(frame, name, "test accuracy"),
            lower_is_better=False,
            remark=WHY,
        )
        for name, published in PUBLISHED.items()
    ]
    reptile = values(frame, "reptile", "after steps", 50)
    found.append(
        Claim(
            "accuracy %, reptile, adapted for 50 steps",
            "97.7 (Nichol et al. 2018)",
            95.0,
            100.0,
            reptile,
            lower_is_better=False,
            remark=WHY,
        )
    )
    return found


def draw(frame: pd.DataFrame, figure: Figure) -> None:
    """Learning curves on validation tasks, and accuracy over inner steps."""
    left, right = figure.subplots(1, 2)
    curves(frame, left, "accuracy", xlabel="outer step")
    left.set_ylabel("accuracy on validation tasks, %")
    few = frame[(frame["metric"] != "after steps") | (frame["step"] <= 5)]
    curves(few, right, "after steps", xlabel="inner steps")
    right.set_ylabel("accuracy on test tasks, %")
    if right.get_legend():
        right.get_legend().remove()


REPRODUCTION = Reproduction(
    name="few-shot",
    title="Few-shot classification of Omniglot's characters",
    paper="Finn et al. 2017; Snell et al. 2017; Nichol et al. 2018; Antoniou et al. "
    "2019; Raghu et al. 2020; Oh et al. 2021",
    protocol="One of the small sets of Omniglot, 136 characters and their rotations: "
    "81 characters to learn from, 28 for tests. Five classes of one example, "
    "convolutions of 32 channels, 400 outer steps of four tasks; settings of the "
    "papers. Of MAML++ its learnt rates are here.",
    settings=settings,
    seeds=(0, 1, 2),
    run=run,
    claims=claims,
    draw=draw,
)
