"""A family and a learner whose every number is known in closed form."""

import json
import time
from dataclasses import dataclass

import torch

from raymeta.data import Episode
from raymeta.data.random import draws
from raymeta.meta import Learner
from raymeta.optim import sgd
from raymeta.problem import descent
from raymeta.train import TrainConfig

SHRINK = 0.7**2  # two inner steps of learning rate .3


@dataclass(frozen=True)
class Points:
    """Task i: descend from w towards the point c_i; judged by the distance to q_i."""

    name: str = "points"
    poison: tuple[int, ...] = ()  # training steps with a loss that is not finite
    step_s: float = 0.0
    ends: int = 1_000_000  # the first training step without tasks
    of: int | None = None  # the only seed whose tasks end; None: of every one

    def episodes(self, step, count, start, stop, *, seed, split):
        time.sleep(self.step_s)
        if split == "train" and step >= self.ends and self.of in (None, seed):
            raise ValueError(f"points ran out at step {step}")
        random = draws(step, count, start, stop, seed=seed, split=split)
        dtype = torch.get_default_dtype()
        c, q = (random.normal(name, 3).to(dtype) for name in "cq")
        if split == "train" and step in self.poison and start == 0:
            c[0] = torch.inf
        return Episode(c, q + 2.0)


def learner(seed):
    """w after two steps is .49 w + .51 c."""
    generator = torch.Generator().manual_seed(seed)

    def problem(task):
        return descent(
            init_params=lambda theta: {"w": theta["layer.w"]},
            inner_loss=lambda params, theta, batch: (
                0.5 * (params["w"] - task.support).square().sum()
            ),
            outer_loss=lambda params, theta: (params["w"] - task.query).square().sum(),
            optimizer=lambda theta: sgd(0.3),
            metrics=lambda params, theta: {
                "far": (params["w"] - task.query).abs().max()
            },
        )

    w = torch.randn(3, generator=generator)
    return Learner(meta={"layer.w": w}, problem=problem, steps=2)


def config(**changes):
    settings = {
        "algorithm": "descent",
        "learner": learner,
        "family": Points(),
        "outer_steps": 12,
        "tasks_per_step": 5,
        "outer_lr": 0.1,
        "dtype": "float64",
        "val_tasks": 7,
        "test_tasks": 11,
        "checkpoint_every": 4,
        "keep": 2,
        "max_skips": 2,
    }
    return TrainConfig(**settings | changes)


def spy(path):
    """A callback of Ray Train that writes what rank 0 reports into a file."""
    from ray.train import UserCallback

    class Spy(UserCallback):
        def after_report(self, run_context, metrics, checkpoint):
            with open(path, "a") as file:
                file.write(json.dumps(metrics[0]) + "\n")

    return Spy()
