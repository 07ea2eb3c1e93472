"""Evaluation of a learner on held-out tasks."""

import math

import torch
from torch import Tensor

from raymeta._tree import tree_map
from raymeta.data import Family, SplitName
from raymeta.meta import MetaModule
from raymeta.train.process_group import ProcessGroup


def evaluate(
    module: MetaModule,
    family: Family,
    ranks: ProcessGroup,
    *,
    split: SplitName,
    count: int,
    at_once: int,
    seed: int,
    steps: int,
) -> dict[str, Tensor]:
    """Losses and metrics of held-out tasks after adaptation.

    The tasks are those of the split's step 0, shared among the ranks.

    Args:
        module: the learner.
        family: the family of the tasks.
        ranks: the processes that share them.
        split: the part of the family that they are from.
        count: number of tasks.
        at_once: number of tasks that a rank adapts to together.
        seed: seeds the tasks.
        steps: number of inner steps.

    Returns:
        "outer_loss" and each metric, of every task, shape (count,), float64 on the
        CPU, the same on all ranks.
    """
    start, stop = ranks.share(count)
    was_training = module.training
    module.eval()
    parts: list[dict[str, Tensor]] = []
    for first in range(start, stop, at_once):
        last = min(first + at_once, stop)
        tasks = family.episodes(0, count, first, last, seed=seed, split=split)
        output = module(tree_map(lambda x: x.to(ranks.device), tasks), steps=steps)
        parts.append({"outer_loss": output.losses, **output.metrics})
    module.train(was_training)
    mine = torch.stack([torch.cat([p[name] for p in parts]) for name in parts[0]])
    return dict(zip(parts[0], ranks.gathered(mine, count), strict=True))


def interval(values: Tensor) -> float:
    """Half the width of the 95 % interval of a mean: 1.96 s / √n.

    NaN for n = 1 and for values that are all the same: one task, judged n times.
    """
    if values.min() == values.max():
        return math.nan
    return 1.96 * float(values.std()) / math.sqrt(len(values))
