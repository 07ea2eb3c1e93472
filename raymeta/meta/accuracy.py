"""Accuracy of classifiers, which is measured beside their loss by itself."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from raymeta.data.episodes import Examples

#: (outputs, targets) -> whether each is right, of the shape of single decisions.
Right = Callable[[Tensor, Tensor], Tensor]


def _of_classes(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of scores (n, classes, ...); targets are classes, or their probabilities."""
    if targets.is_floating_point():
        targets = targets.argmax(1)
    return outputs.argmax(1) == targets


def _of_logits(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs > 0) == (targets > 0.5)


def _of_probabilities(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs > 0.5) == (targets > 0.5)


#: A loss that says what its outputs are -> which decisions are right.
_RIGHT: dict[Any, Right] = {
    F.cross_entropy: _of_classes,
    F.nll_loss: _of_classes,
    F.multi_margin_loss: _of_classes,
    nn.CrossEntropyLoss: _of_classes,
    nn.NLLLoss: _of_classes,
    nn.MultiMarginLoss: _of_classes,
    F.binary_cross_entropy_with_logits: _of_logits,
    nn.BCEWithLogitsLoss: _of_logits,
    F.binary_cross_entropy: _of_probabilities,
    nn.BCELoss: _of_probabilities,
}


def right_of(loss: Callable[..., Any]) -> Right | None:
    """Which decisions are right, where the loss is one of torch's for classifiers.

    Others do not say what their outputs are: integer targets may be those of a
    contrastive loss of embeddings.
    """
    while isinstance(loss, partial):
        loss = loss.func
    key = type(loss) if isinstance(loss, nn.Module) else loss
    return _RIGHT.get(key)


def accuracy(right: Right, outputs: Tensor, examples: Examples) -> Tensor:
    r"""Share of right decisions, shape (): $\sum_j w_j [\hat y_j = y_j] / \sum_j w_j$.

    Negative classes, which `ignore_index` leaves out by default, do not count.
    """
    targets = examples.targets
    hits = right(outputs, targets).to(outputs.dtype)
    weight = examples.weight.to(hits.dtype).view(-1, *[1] * (hits.ndim - 1))
    if not targets.is_floating_point():
        weight = weight * (targets >= 0)
    weight = weight.expand_as(hits)
    return (weight * hits).sum() / weight.sum()
