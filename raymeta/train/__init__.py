"""Data-parallel meta-training, on Ray Train or in one process."""

from raymeta.train.config import TrainConfig
from raymeta.train.recipes import ALGORITHMS, KIND_OF, recipe
from raymeta.train.run import TrainResult, train

__all__ = [
    "ALGORITHMS",
    "KIND_OF",
    "TrainConfig",
    "TrainResult",
    "recipe",
    "train",
]
