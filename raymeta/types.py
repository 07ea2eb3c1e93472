"""Types: what a tensor function of training takes and gives."""

from typing import Any, NamedTuple

from torch import Tensor

#: Parameters (or buffers, or hyperparameters) by name: `torch.func`'s own currency.
Tensors = dict[str, Tensor]

#: Hyperparameters λ by name, in natural values. Floating-point tensors are
#: differentiated; every other value (a `Choice`) is a constant of the problem.
Hparams = dict[str, Any]

#: The state s of a training run: any pytree of tensors.
State = Any


class Batch(NamedTuple):
    """The data b_t of one training step.

    Attributes:
        index: the step t, an int64 tensor of shape ().
        data: any pytree of tensors.
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    data: Any
