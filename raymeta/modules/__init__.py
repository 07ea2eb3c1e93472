"""Modules: bilevel problems from the user's own `nn.Module` and data sets.

`module_problem` is all that most users need. Beside it: what makes hyperparameters of
training differentiable where torch's own functions are not (`smoothed_cross_entropy`,
`random_affine`, `ConcreteDropout`), random numbers that a step done again draws again
(`Noise`), a policy of batch norms (`PerStep`), and batches in parts (`micro_batched`).
"""

from raymeta.modules.augment import random_affine
from raymeta.modules.batches import Examples
from raymeta.modules.counter_rng import Noise
from raymeta.modules.dropout import ConcreteDropout
from raymeta.modules.losses import smoothed_cross_entropy
from raymeta.modules.micro_batches import micro_batched
from raymeta.modules.module_problem import module_problem
from raymeta.modules.overrides.batch_norm import PerStep

__all__ = [
    "ConcreteDropout",
    "Examples",
    "Noise",
    "PerStep",
    "micro_batched",
    "module_problem",
    "random_affine",
    "smoothed_cross_entropy",
]
