"""Every kind of module, in training: three estimators, finite differences, torch's own.

A new kind of module is one line in CASES.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.data import TensorDataset

from raymeta import module_problem, optim
from raymeta._tree import tree_leaves
from raymeta.hypergrad import Checkpointed, Forward, Reverse, hypergradient
from raymeta.modules import PerStep, smoothed_cross_entropy
from raymeta.outer.report import plain_run
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams
from tests.support.module_cases import Tied, frozen
from tests.support.truth import largest_relative_error, run_differences

pytestmark = pytest.mark.usefixtures("float64")
STEPS, TRAIN, VAL, CLASSES, WORDS = 4, 12, 8, 3, 7


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
every = pytest.mark.parametrize("name", CASES)


def problem_of(name: str) -> tuple[nn.Module, BilevelProblem]:
    case = CASES[name]
    generator = torch.Generator().manual_seed(5)

    def part(n: int) -> TensorDataset:
        x = torch.randn(n, *case.shape, generator=generator) + 0.2
        if case.words:
            x = torch.randint(WORDS, (n, *case.shape), generator=generator)
        return TensorDataset(x, torch.randint(CLASSES, (n,), generator=generator))

    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        module = case.make()
    problem = module_problem(
        module,
        loss=F.cross_entropy,
        train=part(TRAIN),
        val=part(VAL),
        batch_size=6,
        seed=2,
        optimizer=lambda h: optim.sgd(
            h["lr"], momentum=0.5, weight_decay=h["weight_decay"]
        ),
        train_loss=lambda outputs, targets, h, index: smoothed_cross_entropy(
            outputs, targets, h["smoothing"]
        ),
        **case.others,
    )
    return module, problem


def hparams_of() -> Hparams:
    return {
        "lr": torch.tensor(0.3),
        "weight_decay": torch.tensor(0.02),
        "smoothing": torch.tensor(0.1),
    }


@every
def test_estimators_agree_with_one_another_and_with_finite_differences(name):
    _, problem = problem_of(name)
    reverse = hypergradient(problem, hparams_of(), Reverse(STEPS))
    truth = run_differences(problem, hparams_of(), STEPS)
    assert largest_relative_error(reverse.grads, truth) < 1e-5
    for estimator in (Forward(STEPS), Checkpointed(STEPS)):
        result = hypergradient(problem, hparams_of(), estimator)
        assert float(result.outer_loss) == pytest.approx(float(reverse.outer_loss))
        assert largest_relative_error(result.grads, reverse.grads) < 1e-8


@pytest.mark.parametrize(
    "name", [name for name, c in CASES.items() if not (c.random or c.others)]
)
def test_training_is_torchs_own(name):
    module, problem = problem_of(name)
    state, value = plain_run(problem, hparams_of(), STEPS)
    free = [p for p in module.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(free, lr=0.3, momentum=0.5, weight_decay=0.02)
    for layer in module.modules():
        if isinstance(layer, nn.Embedding):
            layer.sparse = False
    for t in range(STEPS):
        inputs, targets, _ = problem.batch(t).data
        sgd.zero_grad()
        F.cross_entropy(module(*inputs), targets, label_smoothing=0.1).backward()
        sgd.step()
    theirs = dict(module.named_parameters())
    for key, p in state.params.items():
        torch.testing.assert_close(p, theirs[key].detach(), rtol=1e-11, atol=1e-12)
    assert value > 0


@every
def test_a_step_can_be_traced(name):
    """Also what is random: the graph of one step is that of every step."""
    _, problem = problem_of(name)
    state, hparams = problem.init(hparams_of()), hparams_of()
    graph = make_fx(problem.step)(state, hparams, problem.batch(0))
    for t in (0, 3):
        replayed = tree_leaves(graph(state, hparams, problem.batch(t)))
        stepped = tree_leaves(problem.step(state, hparams, problem.batch(t)))
        for ours, theirs in zip(replayed, stepped, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@every
def test_the_module_is_never_changed(name):
    module, problem = problem_of(name)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    hypergradient(problem, hparams_of(), Reverse(2))
    for key, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[key])


def test_single_precision_reroutes_recurrent_layers_of_onednn():
    """Its LSTM is for float32 alone, and has no forward derivative."""
    torch.set_default_dtype(torch.float32)
    _, problem = problem_of("lstm")
    reverse = hypergradient(problem, hparams_of(), Reverse(STEPS))
    forward = hypergradient(problem, hparams_of(), Forward(STEPS))
    assert largest_relative_error(forward.grads, reverse.grads) < 1e-4
