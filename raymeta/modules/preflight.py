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
#: How far weights are moved to look at a loss beside the present ones.
BESIDE = 1e-2
#: How many passes over validation data are looked at, or a few more.
PASSES = 8
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


class Look:
    """A first look at data: the module called with it, and what is given with outputs.

    Args:
        source: where the examples are from.
        network: the module.
        trained: its weights, which are moved to see what depends on them.
        buffers: the module's own.
        given: what is called.
        seed: of the randomness inside them.
    """

    def __init__(
        self,
        source: Source,
        network: Network,
        trained: Tensors,
        buffers: Tensors,
        given: Functions,
        seed: int,
    ) -> None:
        self._source, self._network, self._trained = source, network, trained
        self._buffers, self._given, self._seed = buffers, given, seed

    def first(self, examples: Examples, *, judged: bool, starts_here: bool) -> None:
        """The first batch, or the first of the validation examples.

        Args:
            examples: a batch.
            judged: whether it is validation data, which metrics see, too.
            starts_here: whether training starts at these weights, whatever λ is.

        Raises:
            ValueError: a function fails, returns something else than it must, or is not
                finite.
        """
        value_of = partial(self._checked, judged=judged)
        with torch.enable_grad(), StopGradients():
            value = value_of(examples)
            self._source.require_finite(value_of, examples)
        if starts_here and not math.isfinite(value):
            raise ValueError(
                f"loss needs a finite value to start from, but is {value} for the "
                f"first examples of {self._source.name}, which are finite, at the "
                "module's present weights: look at the loss, or at the weights"
            )

    def over(self, some: int, size: int | None, *, starts_here: bool) -> None:
        """All validation examples: all can be read, and are finite.

        Args:
            some: how many are called with first.
            size: of the passes over them; None for one.
            starts_here: see `first`.
        """
        source = self._source
        if size is None:
            source.whole  # noqa: B018, reads it
        count = min(some, source.size, size or some)
        few = torch.arange(count)
        rows = size is None and source.by_rows
        examples = source.whole.rows(few) if rows else source.at(few)
        self.first(examples, judged=True, starts_here=starts_here)
        if source.in_memory or size is None:
            return
        value_of = partial(self._checked, judged=False)
        for place, first in enumerate(range(0, source.size, size)):
            part = source.part(first, min(first + size, source.size), place)
            with torch.no_grad():
                source.require_finite(value_of, part)

    def is_mean(self, some: int, size: int | None) -> bool:
        """Whether the loss of some examples is the mean of its parts' losses.

        It is not where the loss is a sum, weighs examples by their classes or lengths,
        or ranks them, nor where the module lets examples that are evaluated together
        depend on one another. At weights of 0 all outputs may be alike, so that it is
        looked at beside the present ones, too.

        Args:
            some: how many examples are looked at, or a few more.
            size: of passes, of which some are looked at; None without.
        """
        total = self._source.size
        if size is None:
            stops = [(0, min(max(some, 3), total))]
        else:
            starts = range(0, total, size)
            few = [starts[i] for i in range(0, len(starts), -(-len(starts) // PASSES))]
            stops = [(i, min(i + size, total)) for i in {*few, starts[-1]}]
        for weights in ({}, self._beside()):
            for first, stop in stops:
                if stop - first < 2 and len(stops) > 1:
                    continue
                try:
                    with torch.no_grad():
                        alike = self._is_mean(weights, first, stop)
                except Exception:  # a module may want batches of one size
                    return False
                if not alike:
                    return False
        return True

    def _is_mean(self, weights: Tensors, first: int, stop: int) -> bool:
        # Of different sizes, for which no sum is the mean.
        middle = first + max((stop - first) // 3, 1)
        if middle >= stop:
            return False
        whole = self._value(weights, first, stop)
        parts = [
            (stop_of - start) * self._value(weights, start, stop_of)
            for start, stop_of in ((first, middle), (middle, stop))
        ]
        mean = sum(parts) / (stop - first)
        if weights and not math.isfinite(whole):
            return True  # weights beside may be none that the module can have
        return math.isclose(mean, whole, rel_tol=MEAN_TOLERANCE, abs_tol=MEAN_TOLERANCE)

    def _value(self, weights: Tensors, first: int, stop: int) -> float:
        source, noise = self._source, Noise(self._seed, self._no_step)
        index = torch.arange(first, stop)
        kept = "whole" in vars(source) and source.by_rows
        examples = source.whole.rows(index) if kept else source.at(index)
        outputs, _ = self._network(weights, self._buffers, examples.inputs, noise)
        return float(self._given.loss(noise, outputs, examples.targets))

    def _checked(self, examples: Examples, judged: bool) -> float:
        """The loss of some examples; every failure told in one line."""
        name, given = self._source.name, self._given
        noise = Noise(self._seed, self._no_step)
        applies = name == "val" or given.loss_is_trained
        with told(f"the module fails for examples of {name}"):
            outputs, _ = self._network({}, self._buffers, examples.inputs, noise)
        if not applies:
            return 0.0
        outputs = tree_map(_leaf, outputs)
        with told(f"loss fails for examples of {name}"):
            value = given.loss(noise, outputs, examples.targets)
        for key, metric in given.metrics.items() if judged else ():
            with torch.no_grad(), told(f"metrics[{key!r}] fails"):
                metric(noise, outputs, examples.targets)
        return float(value.detach())

    @property
    def _no_step(self) -> Tensor:
        return torch.tensor(-1, device=next(iter(self._trained.values())).device)

    def _beside(self) -> Tensors:
        """The weights, each a little moved."""
        generator = torch.Generator().manual_seed(self._seed)

        def moved(w: Tensor) -> Tensor:
            way = torch.randn(w.shape, generator=generator, dtype=w.dtype)
            return w + BESIDE * way.to(w.device)

        return {name: moved(w) for name, w in self._trained.items()}


def no_mean(size: int) -> ValueError:
    """The error for a loss that cannot be accumulated."""
    return ValueError(
        f"val_batch_size={size} (the DataLoader's, if not given) needs a loss that is "
        "a mean over examples, of each of them alone, but that of some examples of val "
        "is not the mean of its parts' (a sum, weights by class, ignored or padded "
        "tokens, ranks, batch_norm='batch', random numbers): take the mean of each "
        "example first, or give the data set without val_batch_size"
    )


def _leaf(x: Any) -> Any:
    if not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_complex()):
        return x
    return x.detach().requires_grad_()
