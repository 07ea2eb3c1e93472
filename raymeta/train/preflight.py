"""Preflight check: one task in the driver, so that mistakes come up at once."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raymeta._tree import detach, tree_leaves
from raymeta.data.episodes import Episode, require_episode
from raymeta.errors import one_line
from raymeta.meta import MetaModule
from raymeta.train.config import DTYPES, TrainConfig
from raymeta.types import Tensors


def check(config: TrainConfig) -> Tensors:
    """Adapt to one task and back-propagate, on the CPU, without compiling.

    Returns:
        The initial θ of the first seed.

    Raises:
        ValueError: a meta-parameter has no influence on the loss, so that workers would
            wait for its gradient; a family whose task is another when asked again; and
            whatever the learner or the family raises; an outer optimizer or a scheduler
            that cannot be made.
    """
    seed = config.seeds[0]
    with as_in_run(config.dtype, seed):
        module = MetaModule(config.learner(seed), engine=config.engine)
        episodes, again = (
            config.family.episodes(
                0, config.tasks_per_step, 0, 1, seed=seed, split="train"
            )
            for _ in range(2)
        )
        require_episode(episodes)
        _require_same(episodes, again)
        module(episodes).loss.backward()
        _require_outer_optimizer(config, module)
    theta = module.theta()
    idle = [name for name, value in theta.items() if value.grad is None]
    if idle:
        raise ValueError(
            f"the outer loss must depend on every meta-parameter, but does not on "
            f"{', '.join(idle)}: leave them out of the learner's meta"
        )
    return detach(theta)


def _require_outer_optimizer(config: TrainConfig, module: MetaModule) -> None:
    """Raise ValueError unless optimizer and scheduler can be made."""
    try:
        optimizer = config.make_optimizer(module.meta_parameters(), config.outer_lr)
        if config.make_scheduler is not None:
            config.make_scheduler(optimizer)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "the outer optimizer and the scheduler of its learning rate must be made "
            f"of θ and outer_lr, but {one_line(error)}"
        ) from error


def new_module(config: TrainConfig, seed: int) -> MetaModule:
    """The meta-module of a run, as it begins."""
    with as_in_run(config.dtype, seed):
        return MetaModule(
            config.learner(seed), engine=config.engine, compile=config.compile
        )


def _require_same(one: Episode, other: Episode) -> None:
    """Raise ValueError unless a task that is asked for again is the same."""
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs):
        raise ValueError(
            "a family's tasks must be functions of (seed, split, step, number) alone, "
            "but asked again for the first one it gives another: draw with a "
            "torch.Generator that these seed"
        )


@contextmanager
def as_in_run(dtype: str, seed: int) -> Iterator[None]:
    """With the dtype and the seed of a run; those of before afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[dtype])
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(before)
