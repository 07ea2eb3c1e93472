"""What an entry of the catalogue is, and the words that its modules are written in."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

WORDS = 5
#: (how many, generator) -> inputs, each of that many examples.
Draw = Callable[[int, Generator], tuple[Tensor, ...]]


class Kind(NamedTuple):
    """A kind of module, its inputs, and what raymeta is to make of it.

    Attributes:
        make: the module.
        inputs: the shape of its one input, or what draws several.
        refused: a part of the message with which every estimator is refused; "" where
            it works.
        except_for: estimator -> a part of the message with which that one is refused.
        random: whether torch's own training has other random numbers.
        surrogate: whether a backward pass of its own is not the derivative of its
            values, so that differences say nothing.
        others: further arguments of `module_problem`.
        compiled: whether it is also run compiled.
    """

    make: Callable[[], nn.Module]
    inputs: tuple[int, ...] | Draw = (5,)
    refused: str = ""
    except_for: Mapping[str, str] = {}
    random: bool = False
    surrogate: bool = False
    others: Mapping[str, Any] = {}
    compiled: bool = False


class Uses(nn.Module):
    """Layers by name, and how they are called: (this, inputs…) -> outputs."""

    def __init__(self, call: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.call = call
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs: Tensor) -> Any:
        return self.call(self, *inputs)


def first(layer: nn.Module) -> nn.Module:
    """A layer of whose outputs the first counts."""
    return Uses(lambda own, *inputs: own.layer(*inputs)[0], layer=layer)


def after_linear(*layers: nn.Module, width: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(5, width), *layers)


def after_conv(*layers: nn.Module, channels: int = 4, ndim: int = 2) -> nn.Module:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[ndim - 1]
    return nn.Sequential(conv(2, channels, 1), *layers)


def probe(outputs: Any, targets: Tensor) -> Tensor:
    """Mean square of what a fixed projection of all outputs misses."""
    if outputs.is_complex():
        outputs = torch.view_as_real(outputs)
    features = outputs.reshape(len(targets), -1)
    count = features.shape[1]
    projection = torch.arange(1, count + 1, device=features.device).cos() / count**0.5
    return (features @ projection - targets).square().mean()


def floats(*shape: int) -> Draw:
    return lambda n, generator: (torch.randn(n, *shape, generator=generator),)


def pair(one: tuple[int, ...], other: tuple[int, ...]) -> Draw:
    return lambda n, generator: (
        torch.randn(n, *one, generator=generator),
        torch.randn(n, *other, generator=generator),
    )


def words(*shape: int) -> Draw:
    return lambda n, generator: (
        torch.randint(WORDS, (n, *shape), generator=generator),
    )
