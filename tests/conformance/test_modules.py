"""Every kind of module; a new one is one line in CASES."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
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
        width = layer.hidden_size * (1 + layer.bidirectional)
        self.layer, self.head = layer, nn.Linear(width, CLASSES)

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
    """`F.scaled_dot_product_attention`, one head, causal or masked."""

    def __init__(self, dropout: float = 0.0, masked: bool = False) -> None:
        super().__init__()
        self.project, self.dropout, self.masked = nn.Linear(4, 12), dropout, masked

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).chunk(3, -1)
        mask = None
        if self.masked:
            mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(1)
        p = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=p, is_causal=not self.masked
        )


class MultiheadAttention(nn.Module):
    def __init__(self, weights: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, dropout, batch_first=True)
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=self.weights)[0]


class Bag(nn.Module):
    """Words in one row, in bags of 3, or one bag a row."""

    def __init__(self, mode: str, offsets: bool = False, **others) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(WORDS, 4, mode=mode, **others)
        self.head, self.offsets = nn.Linear(4, CLASSES), offsets

    def forward(self, x: Tensor) -> Tensor:
        if self.offsets:
            return self.head(self.bag(x.flatten(), torch.arange(0, x.numel(), 4)))
        return self.head(self.bag(x))


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
    "transposed conv": Case(
        lambda: nn.Sequential(
            nn.ConvTranspose2d(2, 2, 2), nn.Flatten(), nn.Linear(32, CLASSES)
        ),
        IMAGE,
    ),
    "batch norm, running": norm("running"),
    "batch norm, batch": norm("batch"),
    "batch norm, frozen": norm("frozen"),
    "batch norm, per step": norm(PerStep(STEPS), momentum=0.4),
    "layer norm": Case(lambda: linear(nn.LayerNorm(6))),
    "group norm": Case(lambda: conv(nn.GroupNorm(2, 4)), IMAGE),
    "instance norm": Case(lambda: conv(nn.InstanceNorm2d(4, affine=True)), IMAGE),
    "rms norm": Case(lambda: linear(nn.RMSNorm(6))),
    "weight norm": Case(
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(5, CLASSES)))
    ),
    "dropout": Case(lambda: linear(nn.Dropout(0.4)), random=True),
    "dropout of channels": Case(lambda: conv(nn.Dropout2d(0.4)), IMAGE, random=True),
    "alpha dropout": Case(lambda: linear(nn.AlphaDropout(0.4)), random=True),
    "rrelu": Case(lambda: linear(nn.RReLU()), random=True),
    "rnn": Case(lambda: Recurrent(nn.RNN(4, 3, batch_first=True)), SEQUENCE),
    "gru": Case(lambda: Recurrent(nn.GRU(4, 3, batch_first=True)), SEQUENCE),
    "gru, two layers, both ways": Case(
        lambda: Recurrent(nn.GRU(4, 3, 2, bidirectional=True, batch_first=True)),
        SEQUENCE,
    ),
    "gru with dropout": Case(
        lambda: Recurrent(nn.GRU(4, 3, 2, dropout=0.4, batch_first=True)),
        SEQUENCE,
        random=True,
    ),
    "gru cell": Case(lambda: nn.Sequential(nn.GRUCell(5, 4), nn.Linear(4, CLASSES))),
    "lstm": Case(lambda: Recurrent(nn.LSTM(4, 3, batch_first=True)), SEQUENCE),
    "attention, causal": Case(lambda: Pooled(SelfAttention()), SEQUENCE),
    "attention, masked": Case(lambda: Pooled(SelfAttention(masked=True)), SEQUENCE),
    "attention with dropout": Case(
        lambda: Pooled(SelfAttention(0.4)), SEQUENCE, random=True
    ),
    "heads": Case(lambda: Pooled(MultiheadAttention(weights=False)), SEQUENCE),
    "heads with weights": Case(
        lambda: Pooled(MultiheadAttention(weights=True)), SEQUENCE
    ),
    "heads with dropout": Case(
        lambda: Pooled(MultiheadAttention(False, 0.4)), SEQUENCE, random=True
    ),
    "transformer": Case(lambda: Pooled(encoder(0.0)), SEQUENCE),
    "transformer with dropout": Case(
        lambda: Pooled(encoder(0.3)), SEQUENCE, random=True
    ),
    "embedding": Case(lambda: Pooled(nn.Embedding(WORDS, 4)), TEXT, words=True),
    "embedding, sparse, padded": Case(
        lambda: Pooled(nn.Embedding(WORDS, 4, padding_idx=2, sparse=True)),
        TEXT,
        words=True,
    ),
    "bag, sum": Case(lambda: Bag("sum"), TEXT, words=True),
    "bag, mean": Case(lambda: Bag("mean", offsets=True), TEXT, words=True),
    "bag, padded": Case(lambda: Bag("mean", padding_idx=1), TEXT, words=True),
    "bag, maximum": Case(lambda: Bag("max", padding_idx=1), TEXT, words=True),
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
