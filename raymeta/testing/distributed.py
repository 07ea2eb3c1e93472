"""Conformance suite of estimators on several ranks."""

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta.compile import recurrence
from raymeta.distributed import data_parallel
from raymeta.hypergrad import Estimator, hypergradient
from raymeta.modules import module_problem
from raymeta.modules.augment import random_affine
from raymeta.modules.counter_rng import Noise
from raymeta.optim import Optimizer, sgd
from raymeta.problem import BilevelProblem, descent
from raymeta.testing.precision import DoublePrecision
from raymeta.testing.ranks import Ranks
from raymeta.types import Batch, Hparams, Tensors

#: Steps of a run.
STEPS = 4
#: How far the numbers of ranks may be from those of one process, relatively.
TOLERANCE = 1e-12


Example = Callable[[], tuple[BilevelProblem, Hparams]]


class Found(NamedTuple):
    """What an estimate gives."""

    outer_loss: Tensor
    grads: Tensors
    gradient_evals: float


def weighted() -> tuple[BilevelProblem, Hparams]:
    """A classifier of plain tensors: λ in the optimizer, the loss and the start.

    Batches of 7 examples, each with a weight of its own.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x, x_val, start = (
        normal(21, 5),
        normal(9, 5),
        {"a": normal(5, 6), "b": normal(6, 3)},
    )
    y, y_val = (torch.randint(3, (n,), generator=generator) for n in (21, 9))

    def outputs(params: Tensors, x: Tensor) -> Tensor:
        return torch.tanh(x @ params["a"]) @ params["b"]

    def inner_loss(params: Tensors, hparams: Hparams, batch: Batch) -> Tensor:
        inputs, targets, index = batch.data
        each = F.cross_entropy(outputs(params, inputs), targets, reduction="none")
        squares = sum(p.square().sum() for p in params.values())
        return (each * hparams["weight"][index]).mean() + hparams["l2"] * squares

    def batch(t: int) -> Batch:
        index = (torch.arange(7) + 7 * t) % 21
        return Batch(torch.tensor(t), (x[index], y[index], index))

    def outer_loss(params: Tensors, hparams: Hparams) -> Tensor:
        squares = sum(p.square().sum() for p in params.values())
        return F.cross_entropy(outputs(params, x_val), y_val) + hparams["l2"] * squares

    hparams = {
        "lr": torch.tensor(0.3),
        "momentum": torch.tensor(0.5),
        "l2": torch.tensor(0.01),
        "weight": torch.linspace(0.5, 1.5, 21),
    }
    return descent(
        init_params=lambda h: start,
        inner_loss=inner_loss,
        outer_loss=outer_loss,
        optimizer=_sgd,
        batch=batch,
    ), hparams


def _sgd(hparams: Hparams) -> Optimizer:
    return sgd(hparams["lr"], momentum=hparams["momentum"])


def random_network() -> tuple[BilevelProblem, Hparams]:
    """A module with batch norm, dropout and augmentation; 7 of 21 examples a step."""
    generator = torch.Generator().manual_seed(1)
    x, x_val = (torch.randn(n, 1, 4, 4, generator=generator) for n in (21, 11))
    y, y_val = (torch.randint(3, (n,), generator=generator) for n in (21, 11))

    def rotated(inputs: tuple, targets: Any, hparams: Hparams, noise: Noise) -> tuple:
        (images,) = inputs
        return (random_affine(images, noise, rotation=hparams["rotation"]),), targets

    def regularizer(params: Tensors, hparams: Hparams) -> Tensor:
        return hparams["l2"] * sum(p.square().sum() for p in params.values())

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(1, 3, 2),
            nn.BatchNorm2d(3),
            nn.Tanh(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(27, 3),
        )
    problem = module_problem(
        module,
        loss=F.cross_entropy,
        train=TensorDataset(x, y),
        val=TensorDataset(x_val, y_val),
        optimizer=_sgd,
        batch_size=7,
        augment=rotated,
        regularizer=regularizer,
        seed=3,
    )
    return problem, {
        "lr": torch.tensor(0.1),
        "momentum": torch.tensor(0.5),
        "rotation": torch.tensor(0.3),
        "l2": torch.tensor(0.01),
    }


def convex() -> tuple[BilevelProblem, Hparams]:
    """Ridge regression, 7 examples at once."""
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(2))
    y = x.sum(1).sin()

    def inner_loss(params: Tensors, hparams: Hparams, batch: Batch) -> Tensor:
        inputs, targets = batch.data
        errors = (inputs @ params["w"] - targets).square().mean()
        return errors + hparams["l2"] * params["w"].square().sum()

    return descent(
        init_params=lambda h: {"w": torch.zeros(3)},
        inner_loss=inner_loss,
        outer_loss=lambda params, h: (params["w"] - 0.1).square().sum(),
        optimizer=lambda h: sgd(0.1, momentum=0.5),
        batch=lambda t: Batch(torch.tensor(t), (x, y)),
    ), {"l2": torch.tensor(0.1)}


def on_a_rank(
    group: ProcessGroup | None, make: Callable[[int], Estimator], example: Example
) -> Found:
    """An estimate on a rank of a group; in one process where that is None."""
    problem, hparams = example()
    if group is not None:
        problem = data_parallel(problem, group)
    # Graphs run operator by operator: to compile each takes long.
    build, recurrence.build = recurrence.build, lambda graph, *_: graph.forward
    try:
        found = hypergradient(problem, hparams, make(STEPS))
    finally:
        recurrence.build = build
    return Found(found.outer_loss, found.grads, found.gradient_evals)


class DistributedConformance(DoublePrecision):
    """What every estimator must satisfy on several ranks: to be as in one process.

        class TestMyEstimator(DistributedConformance):
            @pytest.fixture
            def make(self):
                return MyEstimator

            @pytest.fixture
            def ranks(self, three_ranks):
                return three_ranks

    Fixtures:
        make: steps -> the estimator; a function of a module, which is sent to ranks.
        examples: functions of a module, each of which makes a problem and λ.
        ranks: three processes, `Ranks(3)`, which are best started once for all tests.
    """

    @pytest.fixture
    def ranks(self) -> Ranks:
        raise NotImplementedError

    @pytest.fixture
    def make(self) -> Callable[[int], Estimator]:
        raise NotImplementedError

    @pytest.fixture
    def examples(self) -> tuple[Example, ...]:
        return weighted, random_network

    def test_shares_of_batches_give_what_one_process_finds(
        self,
        ranks: Ranks,
        make: Callable[[int], Estimator],
        examples: tuple[Example, ...],
    ) -> None:
        for example, world in product(examples, (2, 3)):
            one = on_a_rank(None, make, example)
            everyone = ranks.run(on_a_rank, make, example, world=world)
            for found in everyone:
                assert_same(found, one)
                # To the last bit, or ranks would drift apart.
                for name, g in everyone[0].grads.items():
                    assert torch.equal(g, found.grads[name])


def assert_same(found: Found, one: Found) -> None:
    """Ranks have found what one process finds, and charge the same."""
    assert found.gradient_evals == one.gradient_evals
    torch.testing.assert_close(found.outer_loss, one.outer_loss, rtol=TOLERANCE, atol=0)
    assert found.grads.keys() == one.grads.keys()
    for name, truth in one.grads.items():
        gap = (found.grads[name] - truth).abs().max()
        assert float(gap) <= TOLERANCE * float(truth.abs().max()), (name, gap)
