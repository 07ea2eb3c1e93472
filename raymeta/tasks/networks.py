"""Networks of the tasks that train one, and what these share."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def seeded(build: Callable[[], Module], seed: int) -> Module:
    """A module whose initial weights follow from the seed; torch's own stay."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return build()


def digits_network(
    width: int = 128, activation: Callable[[], nn.Module] = nn.Tanh
) -> nn.Sequential:
    """64-width-width-10; its layers with weights are named as `DIGITS_LAYERS` says."""
    return nn.Sequential(
        nn.Linear(64, width),
        activation(),
        nn.Linear(width, width),
        activation(),
        nn.Linear(width, 10),
    )


DIGITS_LAYERS = ("0", "2", "4")


def by_layer(values: Tensor, layers: tuple[str, ...]) -> Mapping[str, Tensor]:
    """A setting per layer from a vector, shape (number of layers,)."""
    return dict(zip(layers, values.unbind(), strict=True))


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of the right classes: outputs (n, classes, ...), targets (n, ...)."""
    return (outputs.argmax(1) == targets).to(outputs.dtype).mean()
