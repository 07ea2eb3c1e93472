"""Configuration of a meta-training run: all that decides its result."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from raymeta.data import Family, check_family
from raymeta.errors import require_types, said, unknown_name
from raymeta.meta import Learner, MetaModule
from raymeta.meta.module import ENGINES
from raymeta.modules.user_functions import require_function
from raymeta.train.outer_optimizers import (
    MakeOptimizer,
    MakeScheduler,
    optimizer_named,
    scheduler_named,
)
from raymeta.train.published import Published

#: By name; float16 would need its gradients scaled.
AUTOCAST = {"bfloat16": torch.bfloat16}
DTYPES = {"float32": torch.float32, "float64": torch.float64}

#: (meta-module with the best θ, family, seed) -> arrays by name, for figures.
Pictures = Callable[[MetaModule, Family, int], dict[str, np.ndarray]]


def adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam with its usual constants, the outer optimizer by default."""
    return torch.optim.Adam(parameters, lr=lr)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A meta-training run, but for where it runs.

    Attributes:
        algorithm: name of what the learner does.
        learner: seed -> the learner, with its initial θ.
        family: the family that the tasks are of.
        outer_steps: updates of θ.
        tasks_per_step: tasks of an outer step, of all workers together.
        outer_lr: learning rate of the outer optimizer.
        optimizer: (parameters, learning rate) -> outer optimizer; or a class of
            `torch.optim` by name, as "AdamW(weight_decay=0.01)".
        scheduler: outer optimizer -> what changes its learning rate after each update;
            or a class of `torch.optim.lr_scheduler` by name, as "CosineAnnealingLR",
            over all outer steps unless it says otherwise. None: constant.
        micro_tasks: most tasks that a worker adapts to at once: their gradients are
            summed, which is that of all its tasks of a step in less memory. None: all.
        autocast: dtype of matrix products, under `torch.autocast`. None: dtype.
        clip_norm: longest meta-gradient; longer ones are scaled to it. None: no limit.
        seeds: one training for each.
        knobs: whatever else makes this run what it is, JSON values; a run is continued
            only with the same.
        engine: what takes the inner steps, see `MetaModule`.
        compile: whether inner steps run as machine code, see `MetaModule`.
        dtype: default dtype of the run.
        val_tasks: held-out tasks that choose the best θ.
        test_tasks: held-out tasks of the final evaluation.
        test_steps: it is done after 0 … test_steps inner steps; None: the learner's T.
        checkpoint_every: outer steps between two validations and checkpoints.
        keep: checkpoints kept besides the best one.
        max_skips: outer updates skipped in a row, for want of a finite loss and
            gradient, before the run is given up.
        pictures: computes the numbers that figures of the trained learner show.
        published: figures that papers report of such a run, shown beside it.

    Raises:
        ValueError: a number is out of its range; a name is unknown; no family; a
            learner that is no function of a seed.
    """

    algorithm: str
    learner: Callable[[int], Learner]
    family: Family
    outer_steps: int
    tasks_per_step: int
    outer_lr: float = 1e-3
    optimizer: MakeOptimizer | str = adam
    scheduler: MakeScheduler | str | None = None
    micro_tasks: int | None = None
    autocast: Literal["bfloat16"] | None = None
    clip_norm: float | None = None
    seeds: tuple[int, ...] = (0,)
    knobs: Mapping[str, Any] = field(default_factory=dict)
    engine: Literal["functional", "higher"] = "functional"
    compile: bool = False
    dtype: Literal["float32", "float64"] = "float32"
    val_tasks: int = 100
    test_tasks: int = 600
    test_steps: int | None = None
    checkpoint_every: int = 100
    keep: int = 3
    max_skips: int = 10
    pictures: Pictures | None = None
    published: tuple[Published, ...] = ()

    def __post_init__(self) -> None:
        """Check every number."""
        check_family(self.family)
        require_function("learner", self.learner, ("seed",))
        require_types(self)
        if self.dtype not in DTYPES:
            raise unknown_name("dtype", self.dtype, DTYPES)
        if self.engine not in ENGINES:
            raise unknown_name("engine", self.engine, ENGINES)
        if self.engine == "higher" and self.compile:
            raise ValueError(
                "engine='higher' takes eager steps, but got compile=True: leave "
                "compile out, or use engine='functional'"
            )
        counts = ("outer_steps", "tasks_per_step", "val_tasks", "test_tasks")
        for name in (*counts, "checkpoint_every", "keep"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, ">= 1")
        _require("max_skips", self.max_skips, self.max_skips >= 0, ">= 0")
        _require("outer_lr", self.outer_lr, 0 < self.outer_lr < math.inf, "> 0")
        if self.clip_norm is not None:
            _require("clip_norm", self.clip_norm, self.clip_norm > 0, "> 0")
        if self.micro_tasks is not None:
            _require("micro_tasks", self.micro_tasks, self.micro_tasks >= 1, ">= 1")
        if self.autocast is not None:
            self._check_autocast()
        self.make_optimizer, self.make_scheduler  # noqa: B018  # raise for names
        if self.test_steps is not None:
            _require("test_steps", self.test_steps, self.test_steps >= 0, ">= 0")
        whole = [seed for seed in self.seeds if type(seed) is int]
        if not self.seeds or len(set(whole)) < len(self.seeds):
            raise ValueError(
                f"a run needs seeds, each once, but got {said(list(self.seeds))}: "
                "give whole numbers, for example (0, 1, 2)"
            )

    def _check_autocast(self) -> None:
        if self.autocast not in AUTOCAST:
            raise unknown_name("autocast", str(self.autocast), AUTOCAST)
        if self.dtype != "float32":
            raise ValueError(
                f"autocast takes float32 to {self.autocast}, but got dtype="
                f"{self.dtype}: leave one of them out"
            )

    @property
    def make_optimizer(self) -> MakeOptimizer:
        """What makes the outer optimizer."""
        own = self.optimizer
        return optimizer_named(own) if isinstance(own, str) else own

    @property
    def make_scheduler(self) -> MakeScheduler | None:
        """What makes the scheduler of its learning rate."""
        own = self.scheduler
        if isinstance(own, str):
            return scheduler_named(own, self.outer_steps, self.outer_lr)
        return own

    def identity(self) -> dict[str, Any]:
        """What must be the same to continue a run; JSON values.

        More outer steps, other seeds, another number of workers or of held-out tasks
        continue it.
        """
        named = ("optimizer", "scheduler", "autocast")
        said = {k: x for k in named if isinstance(x := getattr(self, k), str)}
        return {
            "algorithm": self.algorithm,
            "family": self.family.name,
            "tasks_per_step": self.tasks_per_step,
            "outer_lr": self.outer_lr,
            "clip_norm": self.clip_norm,
            "dtype": self.dtype,
            "knobs": dict(self.knobs) | said,
        }

    def goal(self) -> dict[str, Any]:
        """What the run has to do; one that continues it may do more."""
        names = ("outer_steps", "seeds", "val_tasks", "test_tasks", "test_steps")
        return json.loads(json.dumps({name: getattr(self, name) for name in names}))


def _require(name: str, value: float, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"a training run needs {name} {rule}, but got {value}")
