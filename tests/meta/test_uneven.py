"""Tasks of different sizes: padded and weighted, they are the tasks without padding."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raymeta.meta import (
    Episode,
    Examples,
    MetaModule,
    anil,
    cavia,
    imaml,
    maml,
    meta_sgd,
    protonet,
    reptile,
)
from raymeta.optim import sgd
from tests.support.learners import assert_close, gradients, mlp, seeded

pytestmark = pytest.mark.usefixtures("float64")

SUPPORT, QUERY = [4, 7, 1], [3, 1, 2]


def ragged(sizes: list[int], classes: int = 0) -> list[Examples]:
    """One task after the other, each with examples of its own number."""
    generator = torch.Generator().manual_seed(len(sizes) + sizes[0])
    some = []
    for n in sizes:
        x = torch.randn(1, n, 2, generator=generator)
        y = torch.randn(1, n, 1, generator=generator)
        if classes:
            y = torch.randint(classes, (1, n), generator=generator)
        some.append(Examples.unweighted(x, y))
    return some


def padded(parts: list[Examples], junk: float = 7.0) -> Examples:
    """All tasks together; what weighs nothing is junk, in between as well."""
    longest = max(part.weight.shape[1] for part in parts)
    rows = []
    for i, (x, y, weight) in enumerate(parts):
        places = torch.randperm(longest, generator=torch.Generator().manual_seed(i))
        places = places[: weight.shape[1]].sort().values
        row = (
            torch.full((longest, *x.shape[2:]), junk),
            torch.full((longest, *y.shape[2:]), 1 if y.dtype == torch.int64 else junk),
            torch.zeros(longest),
        )
        row = tuple(
            t.to(like.dtype) for t, like in zip(row, (x, y, weight), strict=True)
        )
        for to, values in zip(row, (x, y, weight), strict=True):
            to[places] = values[0]
        rows.append(row)
    return Examples(*(torch.stack(tensors) for tensors in zip(*rows, strict=True)))


def classifier() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3)))


def accuracy(outputs, targets):
    return (outputs.argmax(-1) == targets).double().mean()


REGRESSION = {"loss": F.mse_loss, "metrics": {"absolute": F.l1_loss}}
LEARNERS = {
    "maml": lambda: maml(mlp(2), optimizer=sgd(0.1), steps=3, **REGRESSION),
    "anil": lambda: anil(mlp(2), head="2", optimizer=sgd(0.1), steps=3, **REGRESSION),
    "meta_sgd": lambda: meta_sgd(mlp(2), lr=0.1, steps=2, **REGRESSION),
    "cavia": lambda: cavia(mlp(4), context=2, steps=2, **REGRESSION),
    "reptile": lambda: reptile(mlp(2), optimizer=sgd(0.1), steps=3, **REGRESSION),
    "imaml": lambda: imaml(mlp(2), strength=5.0, steps=3, **REGRESSION),
    "prototypes": lambda: protonet(
        classifier(), ways=3, metrics={"accuracy": accuracy}
    ),
    "classes": lambda: maml(
        classifier(),
        loss=F.cross_entropy,
        optimizer=sgd(0.5),
        steps=3,
        metrics={"accuracy": accuracy},
    ),
}


#: All but one, as an estimator needs no engine.
PAIRS = [(name, engine) for name in LEARNERS for engine in ("functional", "higher")]
PAIRS.remove(("imaml", "higher"))


@pytest.mark.parametrize(("name", "engine"), PAIRS)
def test_padded_tasks_are_the_tasks_one_by_one(name, engine):
    classes = 3 if name in ("classes", "prototypes") else 0
    support, query = ragged(SUPPORT, classes), ragged(QUERY, classes)
    if name == "prototypes":  # queries of classes of which there is an example
        seen = [part.targets[:, :1] for part in support]
        query = [
            part._replace(targets=y.expand_as(part.targets))
            for part, y in zip(query, seen, strict=True)
        ]
    together = Episode(padded(support), padded(query))
    module = MetaModule(LEARNERS[name](), engine=engine)
    alone = [module(Episode(s, q)) for s, q in zip(support, query, strict=True)]
    output = module(together)
    assert_close(output.losses, torch.cat([one.losses for one in alone]))
    assert {"absolute", "accuracy"} & set(output.metrics)
    for key, value in output.metrics.items():
        assert_close(value, torch.cat([one.metrics[key] for one in alone]))
    mean = torch.stack([one.loss for one in alone]).mean()
    assert_close(gradients(module, output.loss), gradients(module, mean))
    module.eval()
    assert_close(module(together).losses, output.losses.detach())


def test_weights_may_be_any_numbers():
    (part,), (query,) = ragged([4]), ragged([3])
    weight = torch.tensor([[2.0, 0.0, 1.0, 1.0]])
    twice = Examples(
        part.inputs[:, [0, 0, 2, 3]], part.targets[:, [0, 0, 2, 3]], part.weight
    )
    module = MetaModule(LEARNERS["maml"]())
    outputs = [
        module(Episode(support, query))
        for support in (part._replace(weight=weight), twice)
    ]
    assert_close(*[out.losses for out in outputs])
    assert_close(*[gradients(module, out.loss) for out in outputs])
