"""Whether a problem's derivatives are true, or refused in one line of raymeta."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

import raymeta
from raymeta import module_problem, optim
from raymeta.hypergrad import Checkpointed, Forward, Reverse, Truncated
from raymeta.outer.report import plain_run
from raymeta.problem import BilevelProblem
from raymeta.testing.truth import largest_relative_error, run_differences
from raymeta.types import Hparams, Tensors
from tests.modules.catalogue.kind import Kind, probe
from tests.modules.catalogue.losses import Loss

STEPS, TRAIN, VAL, SIZE = 3, 6, 4, 3
ESTIMATORS = {
    "Reverse": Reverse(STEPS),
    "Checkpointed": Checkpointed(STEPS, segments=2),
    "Truncated": Truncated(STEPS, window=STEPS),
    "Forward": Forward(STEPS),
    "higher": Reverse(STEPS, engine="higher"),
}
COMPILED = {"compiled": Reverse(STEPS, compile=True)}
PACKAGE = Path(raymeta.__file__).parent


def module_of(kind: Kind) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        return kind.make()


def data_of(kind: Kind) -> tuple[TensorDataset, TensorDataset]:
    generator = torch.Generator().manual_seed(4)

    def part(n: int) -> TensorDataset:
        if callable(kind.inputs):
            inputs = kind.inputs(n, generator)
        else:
            inputs = (torch.randn(n, *kind.inputs, generator=generator),)
        return TensorDataset(*inputs, torch.randn(n, generator=generator))

    return part(TRAIN), part(VAL)


def problem_of(kind: Kind) -> BilevelProblem:
    """λ is a learning rate, a momentum, and weights of examples."""
    train, val = data_of(kind)
    return module_problem(
        module_of(kind),
        loss=probe,
        train=train,
        val=val,
        batch_size=SIZE,
        seed=2,
        optimizer=lambda h: optim.sgd(h["lr"], momentum=h["momentum"]),
        train_loss=lambda outputs, targets, h, index: probe(
            outputs, targets + h["shifts"][index % 2]
        ),
        **kind.others,
    )


def hparams_of() -> Hparams:
    return {
        "lr": torch.tensor(0.05),
        "momentum": torch.tensor(0.6),
        "shifts": torch.tensor([0.1, -0.2]),
    }


def refusal_of(act: Callable[[], Any]) -> str:
    """The line with which raymeta itself refuses; "" where it does not.

    Raises:
        AssertionError: what was raised is no such line.
    """
    raised: Exception | None = None
    try:
        act()
    except Exception as error:
        raised = error
    if raised is None:
        return ""
    where = Path(traceback.extract_tb(raised.__traceback__)[-1].filename)
    shown = "".join(traceback.format_exception_only(raised))
    assert type(raised) is ValueError, f"not a ValueError: {shown}"
    assert PACKAGE in where.parents, f"not of raymeta but of {where}: {shown}"
    assert "\n" not in str(raised), f"more than one line: {shown}"
    return str(raised)


def require_true(
    problem: BilevelProblem, hparams: Hparams, estimator: Any, truth: Tensors
) -> None:
    """Fail unless an estimator's derivatives are the true ones, to 1e-6."""
    rollout = estimator.init(problem, hparams)
    grads = estimator.estimate(problem, hparams, rollout)[0].grads
    error = largest_relative_error(grads, truth)
    assert error < 1e-6, f"{grads} of {estimator} where differences give {truth}"


def truth_of(problem: BilevelProblem, hparams: Hparams) -> Tensors:
    return run_differences(problem, hparams, STEPS)


def trained_by_torch(kind: Kind, problem: BilevelProblem) -> float:
    """The outer loss after a loop of `torch.optim` with the same batches."""
    module, (_, val), at = module_of(kind), data_of(kind), hparams_of()
    free = [p for p in module.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(free, lr=float(at["lr"]), momentum=float(at["momentum"]))
    for layer in module.train().modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            layer.sparse = False
    for t in range(STEPS):
        inputs, targets, index = problem.batch(t).data
        sgd.zero_grad()
        probe(module(*inputs), targets + at["shifts"][index % 2]).backward()
        sgd.step()
    *inputs, targets = val.tensors
    with torch.no_grad():
        return float(probe(module.eval()(*inputs), targets))


def trained_by_raymeta(problem: BilevelProblem) -> float:
    return plain_run(problem, hparams_of(), STEPS)[1]


def problem_of_loss(loss: Loss) -> BilevelProblem:
    """λ is a learning rate, a momentum, and strengths of decay."""
    generator = torch.Generator().manual_seed(4)

    def part(n: int) -> TensorDataset:
        x = torch.randn(n, 5, generator=generator)
        return TensorDataset(x, loss.targets(n, generator))

    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, loss.outputs))
    return module_problem(
        module,
        loss=loss.make(),
        train=part(TRAIN),
        val=part(VAL),
        batch_size=SIZE,
        seed=2,
        optimizer=lambda h: optim.sgd(h["lr"], momentum=h["momentum"]),
        regularizer=lambda params, h: (
            h["shifts"]
            * torch.stack([params[f"{i}.weight"].square().sum() for i in (0, 2)])
        ).sum(),
    )
