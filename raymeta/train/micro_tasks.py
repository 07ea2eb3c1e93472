"""Micro-tasks: a worker's tasks of a step in parts, whose gradients are summed."""

import math
from itertools import pairwise

import torch

from raymeta._tree import tree_leaves, tree_map
from raymeta.data import Episode
from raymeta.meta import MetaOutput


def split_tasks(episodes: Episode, most: int | None) -> list[Episode]:
    """The tasks in parts of nearly equal size, none larger than `most`; None: all."""
    count = len(tree_leaves(episodes)[0])
    parts = 1 if most is None else math.ceil(count / most)
    ends = [count * i // parts for i in range(parts + 1)]

    def part(start: int, stop: int) -> Episode:
        return tree_map(lambda x: x[start:stop], episodes)

    return [part(*pair) for pair in pairwise(ends)]


def joined(outputs: list[MetaOutput]) -> MetaOutput:
    """What parts give, as if they were one; without their graphs."""
    losses = torch.cat([output.losses.detach() for output in outputs])
    metrics = {
        name: torch.cat([output.metrics[name] for output in outputs])
        for name in outputs[0].metrics
    }
    return MetaOutput(losses.mean(), losses, metrics)
