"""Kinds of tasks: the network, the loss and the pictures that each asks for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raymeta.meta import Siren
from raymeta.train import figure_data
from raymeta.train.config import Pictures

#: (outputs, targets) -> shape ().
Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Tasks of one kind, whichever algorithm learns them.

    Attributes:
        network: (inputs in place of a context, seed) -> a network with fresh weights.
        loss: the loss of the inner and the outer loop.
        head: the layer that ANIL adapts.
        figure_data: a network of this kind -> what figures show.
    """

    network: Callable[[int, int], nn.Module]
    loss: Loss
    head: str = ""
    pictures: Callable[[nn.Module], Pictures] | None = None


@contextmanager
def drawn(seed: int) -> Iterator[None]:
    """Draw from this seed, and leave torch's own numbers as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def sinusoid_network(context: int, seed: int) -> nn.Sequential:
    """1-40-40-1 with ReLU.

    Source: Finn et al. 2017, section 5.1, and the authors' code: weights from a normal
    distribution of standard deviation .01, truncated at two of them, biases 0. With a
    context, PyTorch's own, as in the code of Zintgraf et al. 2019: so small weights
    would take from the context its influence.
    """
    with drawn(seed):
        network = nn.Sequential(
            *(nn.Linear(1 + context, 40), nn.ReLU()),
            *(nn.Linear(40, 40), nn.ReLU()),
            nn.Linear(40, 1),
        )
        if not context:
            for parameter in network.parameters():
                nn.init.zeros_(parameter)
                if parameter.ndim > 1:
                    nn.init.trunc_normal_(parameter, std=0.01, a=-0.02, b=0.02)
    return network


def image_network(side: int, ways: int, width: int, seed: int) -> nn.Module:
    """Blocks of convolution, batch norm, ReLU and pooling until 2x2 or less; linear.

    Source: Vinyals et al. 2016, section 4.1.1; four blocks for 28x28.
    """
    layers: list[nn.Module] = []
    channels = 1
    with drawn(seed):
        while side > 2:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width)]
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
            channels, side = width, side // 2
        body = nn.Sequential(*layers, nn.Flatten())
        return nn.Sequential(body, nn.Linear(channels * side * side, ways))


def small_network(context: int, seed: int) -> nn.Sequential:
    """Of images of digits, 8x8: 64-64-10 with ReLU."""
    with drawn(seed):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )


def sinusoids() -> Domain:
    """Regression of curves."""
    return Domain(
        network=sinusoid_network,
        loss=F.mse_loss,
        head="4",
        pictures=figure_data.sinusoids,
    )


def few_shot(side: int, ways: int, width: int) -> Domain:
    """Classification of images, `side` pixels high and wide."""
    return Domain(
        network=lambda context, seed: image_network(side, ways, width, seed),
        loss=F.cross_entropy,
        head="1",
    )


def functions(side: int, channels: int) -> Domain:
    """Images as functions of coordinates."""

    def network(context: int, seed: int) -> Siren:
        with drawn(seed):
            return Siren(2, channels, latent=context)

    return Domain(
        network=network,
        loss=F.mse_loss,
        pictures=lambda net: figure_data.reconstructions(net, side, channels),
    )
