"""One of each kind of module; every one is in `modules/catalogue`."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta import module_problem, optim
from raymeta.hypergrad import Forward, Reverse, hypergradient
from raymeta.modules import PerStep
from raymeta.testing.modules import (
    CLASSES,
    STEPS,
    ModuleConformance,
    PlainModuleConformance,
)
from raymeta.testing.truth import largest_relative_error
from tests.support.module_cases import Tied, frozen

WORDS = 7


class Case(NamedTuple):
    """A module, its inputs, and how it is made a problem.

    Attributes:
        make: of the module.
        shape: of an input; of integers below WORDS with `words`.
        words: whether inputs are integers.
        others: further arguments of `module_problem`.
        random: whether a run by torch cannot be the same.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (5,)
    words: bool = False
    others: dict = {}  # noqa: RUF012  # read only
    random: bool = False


class Recurrent(nn.Module):
    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(layer.hidden_size, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0].mean(1))


class Pooled(nn.Module):
    """Sequences through layers, then their mean through a linear one."""

    def __init__(self, *layers: nn.Module, width: int = 4) -> None:
        super().__init__()
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(1))


class SelfAttention(nn.Module):
    """`F.scaled_dot_product_attention`, one head, masked."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.project, self.dropout = nn.Linear(4, 12), dropout

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).chunk(3, -1)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(1)
        p = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)


def conv(*between: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 2), *between, nn.Tanh(), nn.Flatten(), nn.Linear(16, CLASSES)
    )


def linear(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), *between, nn.Tanh(), nn.Linear(6, CLASSES))


def encoder(dropout: float) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def norm(policy, **others) -> Case:
    make = lambda: conv(nn.BatchNorm2d(4, **others))  # noqa: E731
    return Case(make, (2, 3, 3), others={"batch_norm": policy})


IMAGE, SEQUENCE, TEXT = (2, 3, 3), (3, 4), (4,)
CASES: dict[str, Case] = {
    "linear": Case(linear),
    "conv": Case(conv, IMAGE),
    "batch norm, running": norm("running"),
    "batch norm, batch": norm("batch"),
    "batch norm, frozen": norm("frozen"),
    "batch norm, per step": norm(PerStep(STEPS), momentum=0.4),
    "dropout": Case(lambda: linear(nn.Dropout(0.4)), random=True),
    "rrelu": Case(lambda: linear(nn.RReLU()), random=True),
    "gru": Case(lambda: Recurrent(nn.GRU(4, 3, batch_first=True)), SEQUENCE),
    "lstm": Case(lambda: Recurrent(nn.LSTM(4, 3, batch_first=True)), SEQUENCE),
    "attention, masked": Case(lambda: Pooled(SelfAttention()), SEQUENCE),
    "attention with dropout": Case(
        lambda: Pooled(SelfAttention(0.4)), SEQUENCE, random=True
    ),
    "transformer": Case(lambda: Pooled(encoder(0.0)), SEQUENCE),
    "embedding, sparse, padded": Case(
        lambda: Pooled(nn.Embedding(WORDS, 4, padding_idx=2, sparse=True)),
        TEXT,
        words=True,
    ),
    "bag, maximum": Case(
        lambda: nn.Sequential(
            nn.EmbeddingBag(WORDS, 4, mode="max", padding_idx=1), nn.Linear(4, CLASSES)
        ),
        TEXT,
        words=True,
    ),
    "tied weights": Case(Tied),
    "frozen weights": Case(frozen),
}


class Registered:
    """The fixtures of a case."""

    @pytest.fixture
    def make(self, case):
        return case.make

    @pytest.fixture
    def inputs(self, case):
        def draw(n, generator):
            if case.words:
                return torch.randint(WORDS, (n, *case.shape), generator=generator)
            return torch.randn(n, *case.shape, generator=generator) + 0.2

        return draw

    @pytest.fixture
    def options(self, case):
        return case.others


PLAIN = [name for name, case in CASES.items() if not (case.random or case.others)]


class TestPlain(Registered, PlainModuleConformance):
    @pytest.fixture(params=PLAIN)
    def case(self, request):
        return CASES[request.param]


class TestRandomOrWithOptions(Registered, ModuleConformance):
    @pytest.fixture(params=[name for name in CASES if name not in PLAIN])
    def case(self, request):
        return CASES[request.param]


def test_single_precision_reroutes_recurrent_layers_of_onednn():
    """Its LSTM is for float32 alone, and has no forward derivative."""
    data = TensorDataset(torch.randn(12, 3, 4), torch.arange(12) % CLASSES)
    problem = module_problem(
        CASES["lstm"].make(),
        loss=F.cross_entropy,
        train=data,
        val=data,
        batch_size=6,
        optimizer=lambda h: optim.sgd(h["lr"], momentum=0.5),
    )
    hparams = {"lr": torch.tensor(0.3)}
    reverse = hypergradient(problem, hparams, Reverse(STEPS))
    forward = hypergradient(problem, hparams, Forward(STEPS))
    assert largest_relative_error(forward.grads, reverse.grads) < 1e-4
