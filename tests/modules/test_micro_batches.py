"""Micro-batches: the numbers of one pass, in the memory of a part."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta import descent, module_problem, optim
from raymeta.hypergrad import (
    Checkpointed,
    Forward,
    Reverse,
    ShortTerm,
    Truncated,
    hypergradient,
)
from raymeta.modules import micro_batched
from raymeta.problem import BilevelProblem
from raymeta.testing.truth import largest_relative_error
from raymeta.types import Hparams
from tests.support.memory import peak_bytes

pytestmark = pytest.mark.usefixtures("float64")
WIDTH = 40


def weighted(outputs: Any, targets: Any, hparams: Hparams, index: Any) -> torch.Tensor:
    each = F.cross_entropy(outputs, targets, reduction="none")
    return (each * hparams["weights"][index]).mean()


def trained(*layers: nn.Module, batch_size: int = 11, **given: Any) -> BilevelProblem:
    """With dropout, λ per example, in the regularizer and in the optimizer."""
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(
        torch.randn(40, 3, generator=generator),
        torch.randint(3, (40,), generator=generator),
    )
    torch.manual_seed(0)
    layers = layers or (nn.Tanh(), nn.Dropout(0.3))
    module = nn.Sequential(nn.Linear(3, WIDTH), *layers, nn.Linear(WIDTH, 3))
    options = {
        "train_loss": weighted,
        "regularizer": lambda p, h: h["l2"] * sum(w.square().sum() for w in p.values()),
        "optimizer": lambda h: optim.adamw(h["lr"], eps=1e-3, weight_decay=h["l2"]),
    } | given
    return module_problem(
        module,
        loss=F.cross_entropy,
        train=data,
        val=data,
        batch_size=batch_size,
        **options,
    )


def start() -> Hparams:
    return {
        "lr": torch.tensor(0.03),
        "l2": torch.tensor(0.01),
        "weights": torch.linspace(0.5, 1.5, 40),
    }


@pytest.mark.parametrize(
    "estimator",
    [
        Reverse(4),
        Checkpointed(4),
        Forward(4),
        Truncated(4, window=2),
        ShortTerm(2),
        ShortTerm(loss="next_batch"),
    ],
    ids=str,
)
def test_the_numbers_of_one_pass(estimator):
    """Of 11 examples in 4 parts, which are of two sizes."""
    ours = hypergradient(trained(micro_batches=4), start(), estimator)
    truth = hypergradient(trained(), start(), estimator)
    assert largest_relative_error(ours.grads, truth.grads) < 1e-12
    assert float(ours.outer_loss) == pytest.approx(float(truth.outer_loss), rel=1e-14)


def test_the_graph_of_one_part_is_alive():
    def peak(micro_batches: int) -> int:
        problem = trained(
            *(nn.Tanh() for _ in range(40)),
            batch_size=40,
            micro_batches=micro_batches,
            val_batch_size=1,
            optimizer=lambda h: optim.sgd(h["lr"]),
        )
        estimator = Checkpointed(3, states=1)
        rollout = estimator.init(problem, start())
        return peak_bytes(lambda: estimator.estimate(problem, start(), rollout))

    one, four, eight, forty = map(peak, (1, 4, 8, 40))
    # b examples in a part: a + b c.
    assert (four - eight) / (eight - forty) == pytest.approx(5 / 4, rel=0.1)
    assert four < one / 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"micro_batches": 0}, "micro_batches must be at least 1, but got 0"),
        (
            {"micro_batches": 12},
            "needs as many examples .* step 0 has 11: raise",
        ),
        ({"micro_batches": 2.5}, "micro_batches"),
    ],
)
def test_impossible_parts_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        trained(**given)


@pytest.mark.parametrize(
    ("layers", "given", "message"),
    [
        (
            [nn.BatchNorm1d(WIDTH, dtype=torch.float64)],
            {},
            "cannot take batch norms in training mode",
        ),
        (
            [],
            {"train_loss": lambda o, t, h, i: F.cross_entropy(o, t, reduction="sum")},
            "inner loss that is the mean over its examples .* take such a mean",
        ),
        (
            [],
            {
                "train_loss": lambda o, t, h, i: F.cross_entropy(
                    o, t, torch.tensor([1.0, 2.0, 9.0])
                )
            },
            "no weights by class",
        ),
    ],
    ids=["batch norm", "sum", "weights by class"],
)
def test_what_is_no_mean_over_examples_is_refused(layers, given, message):
    problem = trained(*layers, micro_batches=3, **given)
    with pytest.raises(ValueError, match=message):
        Reverse(2).init(problem, start())


def test_frozen_batch_norms_are_taken():
    layers = [nn.BatchNorm1d(WIDTH)]
    found = [
        hypergradient(
            trained(*layers, batch_norm="frozen", micro_batches=n), start(), Reverse(2)
        ).grads
        for n in (1, 3)
    ]
    assert largest_relative_error(*found) < 1e-12


def test_compiled_steps_are_refused():
    problem = trained(micro_batches=3)
    with pytest.raises(ValueError, match="compile=True passes a batch through as a wh"):
        hypergradient(problem, start(), Reverse(2, compile=True))


def test_a_batch_without_rows_is_refused():
    problem = descent(
        init_params=lambda h: {"w": torch.ones(3)},
        inner_loss=lambda p, h, b: p["w"].square().sum(),
        outer_loss=lambda p, h: p["w"].sum(),
        optimizer=lambda h: optim.sgd(h["lr"]),
    )
    with pytest.raises(ValueError, match="micro_batches needs batches with examples"):
        micro_batched(problem, 3)
