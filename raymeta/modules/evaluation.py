"""Evaluation of a module on data: losses and metrics, in passes of bounded memory."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from raymeta._tree import flatten, unflatten
from raymeta.autograd.through_stops import ThroughStops
from raymeta.modules.batches import Examples, Source, own_seed
from raymeta.modules.loaders import batch_indices
from raymeta.problem import TrainState, ValidationLoss
from raymeta.types import Hparams, State, Tensors

#: Parts of the validation data whose losses tell E's standard error, of 2 or more each.
FOLDS = 10

#: (s, λ, examples) -> outputs of the module.
Outputs = Callable[[TrainState, Hparams, Examples], Any]
#: (outputs, targets) -> a number.
Score = Callable[[Any, Any], Any]


class Evaluation:
    """A trained module's loss on data.

    Args:
        outputs: of the module in evaluation.
        loss: what the outer loss is.
        stops: see `ThroughStops`.
    """

    def __init__(self, outputs: Outputs, loss: Score, stops: ThroughStops) -> None:
        self._outputs, self._loss, self._stops = outputs, loss, stops

    def loss(self, state: TrainState, hparams: Hparams, examples: Examples) -> Tensor:
        """The loss of some examples, shape ()."""

        def pass_of(state: TrainState, hparams: Hparams) -> Tensor:
            return self._loss(self._outputs(state, hparams, examples), examples.targets)

        return self._stops(pass_of, state, hparams)

    def mean_loss(
        self, source: Source, size: int | None
    ) -> Callable[[State, Hparams, Tensor | None], Tensor]:
        """(s, λ, B) -> the loss over all examples of a source, or over those of B.

        Args:
            source: what is looked at.
            size: how many examples are read at a time; None keeps all of them as they
                were read once.
        """

        def some(index: Tensor | None) -> Examples:
            if size is not None:
                return _read(source, index, size)
            if index is None:
                return source.whole
            # Rows of what was collated by others may be no examples.
            return source.whole.rows(index) if source.by_rows else source.at(index)

        return lambda s, h, index: self.loss(s, h, some(index))

    def validation_loss(
        self, source: Source, size: int | None, sample: int | None, seed: int
    ) -> ValidationLoss:
        """The mean loss over all examples of a source, or over a batch of them.

        Args:
            source: what is looked at.
            size: of the passes; None for one over all examples.
            sample: see `ValidationLoss`.
            seed: seeds the order of the batches.
        """
        own = own_seed(source.name, seed)
        return ValidationLoss(
            mean=self.mean_loss(source, size),
            batch=lambda count, t: batch_indices(source.size, count, own, t),
            size=source.size,
            batch_size=size,
            sample=sample,
        )

    def metrics(
        self,
        state: TrainState,
        hparams: Hparams,
        source: Source,
        size: int | None,
        scores: Mapping[str, Score],
    ) -> Tensors:
        """Each score on all outputs and targets of a source.

        Args:
            state: s.
            hparams: λ.
            source: what is looked at.
            size: of the passes in which outputs are found; None for one.
            scores: name -> (outputs, targets) -> a number.
        """
        with torch.no_grad():
            both = self._gathered(state, hparams, source, size)
            found = {name: score(*both) for name, score in scores.items()}
        return {name: torch.as_tensor(value) for name, value in found.items()}

    def _gathered(
        self, state: TrainState, hparams: Hparams, source: Source, size: int | None
    ) -> tuple[Any, Any]:
        """All outputs and targets, which are small beside what leads to them."""

        def pass_of(examples: Examples) -> tuple[Any, Any]:
            found = self._stops(
                lambda s, h: self._outputs(s, h, examples), state, hparams
            )
            return found, examples.targets

        if size is not None:
            index = torch.arange(source.size)
            parts = [pass_of(source.at(part)) for part in index.split(size)]
            counts = [len(part) for part in index.split(size)]
            if (joined := _joined(parts, counts)) is not None:
                return joined
        return pass_of(source.all())


def fold_losses(loss: ValidationLoss) -> Callable[[State, Hparams], Tensor]:
    """(s, λ) -> E of each of some parts of the validation data, shape (FOLDS,)."""
    folds = [torch.arange(i, loss.size, FOLDS) for i in range(FOLDS)]
    return lambda s, h: torch.stack([loss.over(s, h, fold) for fold in folds])


def _read(source: Source, index: Tensor | None, size: int) -> Examples:
    """Those of an index; a pass over all of them has its places in what is ahead."""
    if index is None:
        return source.part(0, source.size, 0 if source.size <= size else None)
    first, stop = int(index[0]), int(index[-1]) + 1
    if stop - first == len(index) and bool((index.diff() == 1).all()):
        whole = first % size == 0 and stop == min(first + size, source.size)
        return source.part(first, stop, first // size if whole else None)
    return source.at(index)


def _joined(parts: list[Any], counts: list[int]) -> Any | None:
    """Trees of tensors one after the other, or None where they do not go together."""
    flat = [flatten(part) for part in parts]
    for leaves, spec in flat:
        if spec != flat[0][1] or not all(isinstance(x, Tensor) for x in leaves):
            return None
    columns = list(zip(*(leaves for leaves, _ in flat), strict=True))
    for column in columns:
        rows = [x.shape[:1] == (n,) for x, n in zip(column, counts, strict=True)]
        if not all(rows) or len({x.shape[1:] for x in column}) > 1:
            return None
    return unflatten([torch.cat(column) for column in columns], flat[0][1])
