"""Preflight of `module_problem`: the functions given to it, on the first batch.

All that goes wrong with the first batch is told here, before a step is taken.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raymeta._tree import tree_map
from raymeta.autograd.stop_gradient import StopGradients
from raymeta.modules.batches import Examples, Source
from raymeta.modules.counter_rng import Noise
from raymeta.modules.functional import Network
from raymeta.modules.user_functions import (
    UserFunction,
    require_augmented,
    require_no_weights,
    require_number,
    told,
)
from raymeta.problem import require_scalar
from raymeta.types import Tensors

_PAIR = ("outputs", "targets")
#: How far a loss may be from the mean of its parts', by rounding alone.
MEAN_TOLERANCE = 1e-5
#: (noise, the function's own arguments) -> its value.
Given = Callable[..., Any]


class Functions(NamedTuple):
    """What a user gives to `module_problem`, each called with noise first.

    Attributes:
        loss: (outputs, targets) -> shape ().
        train_loss: (outputs, targets, λ, index) -> shape (); None where it is the loss.
        regularizer: (weights, λ) -> shape (), or None.
        augment: (inputs, targets, λ, noise) -> (inputs, targets), or None.
        metrics: name -> (outputs, targets) -> one number.
    """

    loss: Given
    train_loss: Given | None
    regularizer: Given | None
    augment: Given | None
    metrics: dict[str, Given]

    @property
    def loss_is_trained(self) -> bool:
        """Whether training batches go to the loss as they are."""
        return self.train_loss is None and self.augment is None


def functions(
    module: nn.Module,
    mixed: bool,
    *,
    loss: Any,
    train_loss: Any,
    regularizer: Any,
    augment: Any,
    metrics: Mapping[str, Any] | None,
) -> Functions:
    """The arguments of `module_problem` of these names.

    Args:
        module: what is trained.
        mixed: whether precision is mixed.
        loss: see `module_problem`, as for the others.
        train_loss: its argument of this name, or None.
        regularizer: see `train_loss`.
        augment: see `train_loss`.
        metrics: see `train_loss`.

    Raises:
        ValueError: one is no function of as many arguments, or a loss that has weights
            of its own to train.
    """
    of = partial(UserFunction, module=module, mixed=mixed)
    for name, function in (("loss", loss), ("train_loss", train_loss)):
        require_no_weights(name, function)
    return Functions(
        loss=of("loss", loss, _PAIR, require_scalar, trains=train_loss is None),
        train_loss=train_loss
        and of(
            "train_loss",
            train_loss,
            (*_PAIR, "hparams", "index"),
            require_scalar,
            trains=True,
        ),
        regularizer=regularizer
        and of("regularizer", regularizer, ("params", "hparams"), require_scalar),
        augment=augment
        and of(
            "augment",
            augment,
            ("inputs", "targets", "hparams", "noise"),
            require_augmented,
        ),
        metrics={
            name: of(f"metrics[{name!r}]", metric, _PAIR, require_number)
            for name, metric in (metrics or {}).items()
        },
    )


def first_look(
    source: Source,
    network: Network,
    buffers: Tensors,
    examples: Examples,
    given: Functions,
    noise: Noise,
    *,
    judged: bool,
    starts_here: bool,
) -> None:
    """Call the module with examples, and what is given with its outputs.

    Args:
        source: where the examples are from.
        network: the module at its present weights.
        buffers: the module's own.
        examples: a batch.
        given: what is called.
        noise: randomness inside them.
        judged: whether it is validation data, which metrics see, too.
        starts_here: whether training starts at these weights, whatever λ is.

    Raises:
        ValueError: one fails, returns something else than it must, or is not finite.
    """
    applies = judged or given.loss_is_trained

    def value_of(examples: Examples) -> float:
        with told(f"the module fails for examples of {source.name}"):
            outputs, _ = network({}, buffers, examples.inputs, noise)
        if not applies:
            return 0.0
        outputs = tree_map(_leaf, outputs)
        with told(f"loss fails for examples of {source.name}"):
            value = given.loss(noise, outputs, examples.targets)
        for name, metric in given.metrics.items() if judged else ():
            with torch.no_grad(), told(f"metrics[{name!r}] fails"):
                metric(noise, outputs, examples.targets)
        return float(value.detach())

    with torch.enable_grad(), StopGradients():
        value = value_of(examples)
        source.require_finite(value_of, examples)
    if starts_here and not math.isfinite(value):
        raise ValueError(
            f"loss needs a finite value to start from, but is {value} for the first "
            f"examples of {source.name}, which are finite, at the module's present "
            "weights: look at the loss, or at the weights"
        )


def is_mean(
    network: Network,
    buffers: Tensors,
    examples: Examples,
    size: int,
    given: Functions,
    noise: Noise,
) -> bool:
    """Whether the loss of some examples is the mean of its parts' losses.

    It is not where the loss is a sum, weighs examples by their classes, or ranks them,
    nor where the module lets examples that are evaluated together depend on one
    another.

    Args:
        network: the module in evaluation, at its present weights.
        buffers: the module's own.
        examples: all validation examples.
        size: how many of them are looked at, or a few more.
        given: has the loss.
        noise: randomness inside the module and the loss.
    """

    def value_of(places: range) -> float:
        some = examples.rows(torch.tensor(places))
        outputs, _ = network({}, buffers, some.inputs, noise)
        return float(given.loss(noise, outputs, some.targets))

    # Of different sizes, for which no sum is the mean.
    count = min(max(size, 3), len(examples.index))
    first = count // 3
    if not first:
        return False
    try:
        with torch.no_grad():
            whole = value_of(range(count))
            parts = value_of(range(first)), value_of(range(first, count))
    except Exception:  # a module may want batches of one size, data may be no tensors
        return False
    mean = (first * parts[0] + (count - first) * parts[1]) / count
    return math.isclose(mean, whole, rel_tol=MEAN_TOLERANCE, abs_tol=MEAN_TOLERANCE)


def _leaf(x: Any) -> Any:
    if not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_complex()):
        return x
    return x.detach().requires_grad_()
