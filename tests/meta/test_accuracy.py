"""Accuracy beside the loss of classifiers, against counting by hand."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raymeta.data import Episode, Examples
from raymeta.meta import MetaModule, maml
from raymeta.meta.accuracy import accuracy, right_of

SCORES = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 1.0]])


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "weight", "expected"),
    [
        (F.cross_entropy, SCORES, [0, 2, 2], [1, 1, 1], 2 / 3),
        (nn.CrossEntropyLoss(), SCORES, [0, 2, 2], [1, 1, 0], 1.0),
        (partial(F.nll_loss), SCORES, [0, -100, 2], [1, 1, 1], 1 / 2),
        (F.cross_entropy, SCORES, SCORES.softmax(1), [1, 1, 1], 1.0),
        (nn.BCEWithLogitsLoss(), [0.3, -0.2, 2.0], [1.0, 1.0, 0.0], [1, 3, 1], 1 / 5),
        (F.binary_cross_entropy, [0.3, 0.6], [0.0, 1.0], [1, 1], 1.0),
    ],
)
def test_right_decisions_are_counted(loss, outputs, targets, weight, expected):
    outputs, targets, weight = map(torch.as_tensor, (outputs, targets, weight))
    found = accuracy(right_of(loss), outputs, Examples(outputs, targets, weight))
    assert found.item() == pytest.approx(expected)


def test_other_losses_do_not_say_what_outputs_are():
    assert right_of(F.mse_loss) is None
    assert right_of(lambda outputs, targets: F.cross_entropy(outputs, targets)) is None


def test_a_classifier_has_it_and_what_is_given_comes_first():
    torch.manual_seed(0)
    net, x = nn.Linear(3, 4), torch.randn(5, 6, 3)
    examples = Examples.unweighted(x, torch.randint(4, (5, 6)))
    module = MetaModule(maml(net, loss=F.cross_entropy, steps=2)).eval()
    found = module(Episode(examples, examples)).metrics["accuracy"]
    for i in range(5):
        alone = module.adapt((x[i], examples.targets[i]))
        hits = alone(x[i]).argmax(1) == examples.targets[i]
        assert found[i].item() == pytest.approx(hits.float().mean().item())
    own = {"accuracy": lambda outputs, targets: outputs.sum() * 0 + 7}
    module = MetaModule(maml(net, loss=F.cross_entropy, metrics=own))
    assert (module(Episode(examples, examples)).metrics["accuracy"] == 7).all()
