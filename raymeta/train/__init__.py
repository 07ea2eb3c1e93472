"""Data-parallel meta-training, on Ray Train or in one process.

The package is a function, too: `raymeta.train(config)` is `raymeta.train.train`.
"""

import sys
from types import ModuleType

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


class _TrainPackage(ModuleType):
    __call__ = staticmethod(train)


sys.modules[__name__].__class__ = _TrainPackage
