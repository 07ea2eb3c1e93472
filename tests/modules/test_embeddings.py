"""Embeddings whose training gradient is not the derivative: made right, or refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta import optim
from raymeta.hypergrad import Checkpointed, Forward, Reverse, hypergradient
from raymeta.outer.report import plain_run
from raymeta.problem import BilevelProblem
from raymeta.testing.truth import largest_relative_error, run_differences
from raymeta.types import Hparams
from tests.support.module_cases import CLOSE, SIZE, TRAIN, VAL, problem_of

pytestmark = pytest.mark.usefixtures("float64")
HPARAMS = {"lr": 0.3, "weight_decay": 0.1, "scale": 1.5}


class Words(nn.Module):
    """A bag of words, of 5."""

    def __init__(self, layer: type = nn.Embedding, **settings: Any) -> None:
        super().__init__()
        self.words, self.head = layer(5, 4, **settings), nn.Linear(4, 3)
        nn.init.normal_(self.words.weight)  # the padding's vector, too

    def vectors(self, index: Tensor) -> Tensor:
        return self.words(index)

    def forward(self, index: Tensor) -> Tensor:
        return self.head(self.vectors(index).tanh().reshape(len(index), -1, 4).mean(1))


class Tied(Words):
    """The same matrix gives the words and reads them."""

    def forward(self, index: Tensor) -> Tensor:
        scores = self.vectors(index).tanh().mean(1) @ self.words.weight.T
        return self.head(scores.tanh()[:, :4])


class Functional(Words):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    def vectors(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.words.weight, **self.settings)


class Direct(Functional):
    def vectors(self, index: Tensor) -> Tensor:
        return torch.embedding(self.words.weight, index, **self.settings)


def words(n: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(5, (n, 7), generator=generator)
    return TensorDataset(index, torch.randint(3, (n,), generator=generator))


def problem(module: nn.Module) -> BilevelProblem:
    return problem_of(
        module,
        train=words(TRAIN, 0),
        val=words(VAL, 1),
        optimizer=lambda h: optim.sgd(h["lr"], weight_decay=h["weight_decay"]),
        init_params=lambda params, h: {k: p * h["scale"] for k, p in params.items()},
    )


def hparams() -> Hparams:
    return {name: torch.tensor(value) for name, value in HPARAMS.items()}


RIGHT = {
    "plain": Words,
    "padding": lambda: Words(padding_idx=1),
    "padding from the end": lambda: Words(padding_idx=-1),
    "padding, tied": lambda: Tied(padding_idx=2),
    "padding of a function": lambda: Functional(padding_idx=1),
    "sparse": lambda: Words(sparse=True),
    "a sparse function": lambda: Functional(sparse=True),
    "a bag with padding": lambda: Words(nn.EmbeddingBag, padding_idx=1),
    "a sparse bag": lambda: Words(nn.EmbeddingBag, sparse=True, mode="sum"),
}


def made(name: str) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        return RIGHT[name]()


@pytest.mark.parametrize("name", RIGHT)
def test_hypergradients_of_embeddings_are_the_true_ones(name):
    of = problem(made(name))
    truth = run_differences(of, hparams(), 4)
    for estimator in (Reverse(4), Checkpointed(4), Forward(4)):
        grads = hypergradient(of, hparams(), estimator).grads
        assert largest_relative_error(grads, truth) < 1e-7


@pytest.mark.parametrize("name", [name for name in RIGHT if "sparse" not in name])
def test_training_leaves_the_padding_out_as_torch_does(name):
    module = made(name)
    of = problem(module)
    state, _ = plain_run(of, hparams(), 4)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(HPARAMS["scale"])
    sgd = torch.optim.SGD(
        module.parameters(), HPARAMS["lr"], weight_decay=HPARAMS["weight_decay"]
    )
    for t in range(4):
        (index,), targets, _ = of.batch(t).data
        assert len(index) == SIZE
        sgd.zero_grad()
        F.cross_entropy(module(index), targets).backward()
        sgd.step()
    for key, p in module.named_parameters():
        torch.testing.assert_close(state.params[key], p.detach(), **CLOSE)


FREQUENT = {"scale_grad_by_freq": True}
REFUSED = {
    "layer": (lambda: Words(**FREQUENT), "Embedding with scale_grad_by_freq=True"),
    "bag": (
        lambda: Words(nn.EmbeddingBag, **FREQUENT),
        "EmbeddingBag with scale_grad_by_freq=True",
    ),
    "function": (
        lambda: Functional(**FREQUENT),
        "embedding with max_norm or .* scale_grad_by_freq=True: leave them out",
    ),
    "norm of a function": (
        lambda: Functional(max_norm=1.0),
        "embedding with max_norm or .* max_norm=1.0, ",
    ),
    "operator": (
        lambda: Direct(**FREQUENT),
        "torch.embedding with scale_grad_by_freq, whose gradient is not the dense",
    ),
    "padding of the operator": (
        lambda: Direct(padding_idx=1),
        "torch.embedding with padding_idx, .*: use F.embedding, or leave it out",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_gradients_that_are_no_derivatives(make, message):
    with pytest.raises(ValueError, match=f"raymeta cannot differentiate {message}"):
        problem(make())
