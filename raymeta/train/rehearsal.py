"""One task, in the driver: mistakes come up before anything starts."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raymeta.meta import MetaModule
from raymeta.train.config import DTYPES, TrainConfig
from raymeta.tree import detach
from raymeta.types import Tensors


def rehearse(config: TrainConfig) -> Tensors:
    """Adapt to one task and back-propagate, on the CPU, without compiling.

    Returns:
        The initial θ of the first seed.

    Raises:
        ValueError: a meta-parameter has no influence on the loss, so that workers would
            wait for its gradient; and whatever the learner or the family raises.
    """
    seed = config.seeds[0]
    with _as_in_run(config, seed):
        module = MetaModule(config.learner(seed), engine=config.engine)
        episodes = config.family.episodes(
            0, config.tasks_per_step, 0, 1, seed=seed, split="train"
        )
        module(episodes).loss.backward()
    theta = module.theta()
    idle = [name for name, value in theta.items() if value.grad is None]
    if idle:
        raise ValueError(
            f"the outer loss must depend on every meta-parameter, but does not on "
            f"{', '.join(idle)}: leave them out of the learner's meta"
        )
    return detach(theta)


def new_module(config: TrainConfig, seed: int) -> MetaModule:
    """The meta-module of a run, as it begins."""
    with _as_in_run(config, seed):
        return MetaModule(
            config.learner(seed), engine=config.engine, compile=config.compile
        )


@contextmanager
def _as_in_run(config: TrainConfig, seed: int) -> Iterator[None]:
    """With the dtype and the seed of a run; those of before afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[config.dtype])
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(before)
