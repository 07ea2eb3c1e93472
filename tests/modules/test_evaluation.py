"""The outer loss in mini-batches: the numbers of one pass, and what has none."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from raymeta import Positive, Space, module_problem, optim, optimize
from raymeta.hypergrad import (
    ES,
    PES,
    SOBA,
    Checkpointed,
    Forward,
    Implicit,
    Reverse,
    Reversible,
    ShortTerm,
    Truncated,
    hypergradient,
)
from raymeta.hypergrad.batched_problem import stack, stacked
from raymeta.hypergrad.registry import ESTIMATORS
from raymeta.hypergrad.tower import tower
from raymeta.outer.report import held_out, plain_run
from raymeta.problem import ValidationLoss
from tests.support.module_cases import VAL, data, mlp, problem_of

pytestmark = pytest.mark.usefixtures("float64")
T = 4
H = {
    name: torch.tensor(value, dtype=torch.float64)
    for name, value in (("lr", 0.2), ("momentum", 0.6), ("decay", 0.1))
}


class Read(Dataset):
    """The same examples, read one by one."""

    def __init__(self, tensors) -> None:
        self.tensors = tensors.tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, i: int):
        return tuple(x[i] for x in self.tensors)


def problem(*between, val=None, **others):
    val = data(n=VAL, seed=1) if val is None else val
    others.setdefault(
        "regularizer", lambda p, h: h["decay"] * (p["0.weight"] ** 2).sum()
    )
    return problem_of(mlp(*between), val=val, test=data(n=9, seed=2), **others)


def forms():
    """VAL = 14 examples by five, the last part smaller."""
    val = data(n=VAL, seed=1)
    yield problem(val_batch_size=5)
    yield problem(val=Read(val), val_batch_size=5)


def assert_alike(one, other, tolerance=1e-12):
    torch.testing.assert_close(one.outer_loss, other.outer_loss, rtol=tolerance, atol=0)
    for name, exact in one.grads.items():
        close = {"rtol": tolerance, "atol": tolerance}
        torch.testing.assert_close(other.grads[name], exact, **close)
    assert one.gradient_evals == other.gradient_evals


#: Those that a minimum of the inner loss is for have a test of their own.
NAMED = {
    name: make(T)
    for name, make in ESTIMATORS.items()
    if name not in ("implicit", "soba")
}
OTHERS = {
    "higher": Reverse(T, engine="higher"),
    "binomial": Checkpointed(T, states=2),
    "truncated": Truncated(T, 2),
    "chunks": Forward(T, chunk=1),
    "ES": ES(T, 0.01, 2),
    "PES, one by one": PES(T, 0.01, 1, vectorized=False),
    "compiled reverse": Reverse(T, compile=True),
    "compiled forward": Forward(T, compile=True),
}


@pytest.mark.parametrize("estimator", [*NAMED.values(), *OTHERS.values()], ids=str)
def test_every_estimator_has_the_numbers_of_one_pass(estimator):
    one = problem()
    exact = hypergradient(one, H, estimator)
    # ES divides by the length of a small step.
    tolerance = 1e-10 if isinstance(estimator, ES | PES) else 1e-12
    several = [next(forms())] if getattr(estimator, "compile", False) else forms()
    for accumulated in several:
        found = hypergradient(accumulated, H, estimator)
        assert_alike(exact, found, tolerance)


@pytest.mark.parametrize("estimator", [Implicit(30), SOBA(3)], ids=str)
def test_implicit_differentiation_has_them_too(estimator):
    at = {"decay": torch.tensor(0.5)}
    rule = lambda h: optim.sgd(0.1)  # noqa: E731
    one, *others = (
        problem(
            optimizer=rule,
            batch_size=None,
            regularizer=lambda p, h: sum(h["decay"] * (w**2).sum() for w in p.values()),
            **more,
        )
        for more in ({}, {"val_batch_size": 5})
    )
    exact = hypergradient(one, at, estimator)
    for other in others:
        assert_alike(exact, hypergradient(other, at, estimator), 1e-11)


@pytest.mark.parametrize("estimator", [Reverse(3), Forward(3)], ids=str)
def test_towers_take_second_derivatives(estimator):
    kappa = {"rate": torch.tensor(1e-2)}
    towers = (
        tower(p, H, lambda k: optim.sgd(k["rate"])) for p in (problem(), *forms())
    )
    exact, *found = (hypergradient(t, kappa, estimator) for t in towers)
    for other in found:
        assert_alike(exact, other, 1e-11)


def test_runs_side_by_side():
    one, other = problem(), next(forms())
    runs = [H, {**H, "lr": torch.tensor(0.1)}]
    exact, found = (
        hypergradient(stacked(p), stack(runs), Reverse(T)) for p in (one, other)
    )
    assert_alike(exact, found)


def test_evaluation_takes_running_statistics_example_by_example():
    one = problem(nn.BatchNorm1d(6))
    exact = hypergradient(one, H, Reverse(T))
    other = problem(nn.BatchNorm1d(6), val_batch_size=4)
    assert_alike(exact, hypergradient(other, H, Reverse(T)))


def test_what_is_held_out_is_the_same():
    def error(outputs, targets):
        return (outputs.argmax(-1) != targets).double().mean()

    found = []
    for more in ({}, {"val_batch_size": 4}):
        p = problem(val=data(n=40, seed=1), holdout=0.3, metrics={"e": error}, **more)
        state, _ = plain_run(p, H, T)
        found.append({**held_out(p, state, H), **p.metrics(state, H)})
    assert set(found[0]) >= {"standard_error", "holdout_loss", "test_loss", "test_e"}
    for name, exact in found[0].items():
        assert float(found[1][name]) == pytest.approx(float(exact), rel=1e-12)


def test_it_is_read_in_parts():
    class Watched(Read):
        asked: list[int] = []  # noqa: RUF012

        def __getitem__(self, i: int):
            self.asked.append(i)
            return super().__getitem__(i)

    def collate(items):
        sizes.append(len(items))
        return torch.utils.data.default_collate(items)

    sizes: list[int] = []
    val = DataLoader(Watched(data(n=VAL, seed=1)), batch_size=5, collate_fn=collate)
    p = problem(val=val)
    sizes.clear()
    Watched.asked.clear()
    p.outer_loss(p.init(H), H)
    assert sizes == [5, 5, 4]
    assert Watched.asked == list(range(VAL))


WEIGHTS = torch.tensor([1.0, 2.0, 9.0])


@pytest.mark.parametrize(
    "others",
    [
        {"loss": lambda y, t: F.cross_entropy(y, t, reduction="sum")},
        {"loss": lambda y, t: F.cross_entropy(y, t, WEIGHTS)},
        {"loss": lambda y, t: F.cross_entropy(y, t, ignore_index=2)},
        {"batch_norm": "batch"},
    ],
    ids=["sum", "weights by class", "ignored targets", "batch norm"],
)
def test_what_is_no_mean_over_examples_is_refused(others):
    message = (
        r"val_batch_size=5 \(the DataLoader's, if not given\) needs a loss that is"
    )
    with pytest.raises(ValueError, match=message) as caught:
        problem(nn.BatchNorm1d(6), val_batch_size=5, **others)
    assert "\n" not in str(caught.value)


def test_weights_of_zero_do_not_hide_it():
    net = mlp()
    nn.init.zeros_(net[-1].weight)
    nn.init.zeros_(net[-1].bias)
    loss = lambda y, t: F.cross_entropy(y, t, WEIGHTS)  # noqa: E731
    with pytest.raises(ValueError, match="needs a loss that is a mean"):
        problem_of(net, val_batch_size=5, loss=loss)


# ---------------------------------------------------------------- some parts at a time


@pytest.mark.parametrize(
    "estimator",
    [
        Reverse(T),
        Checkpointed(T),
        Reversible(T),
        ShortTerm(2),
        Forward(2),
        ES(T, 0.01, 1),
    ],
    ids=str,
)
def test_an_estimate_looks_at_some_parts_and_charges_for_them(estimator):
    p = problem(val_batch_size=4, val_batches=2)
    loss, looked = p.outer_loss, []
    assert isinstance(loss, ValidationLoss)

    def batch(count, t):
        looked.append(loss.batch(count, t))
        return looked[-1]

    watched = replace(p, outer_loss=replace(loss, batch=batch))
    found, again = (hypergradient(watched, H, estimator) for _ in range(2))
    assert_alike(found, again, 0)
    index, same = looked
    assert torch.equal(index, same)
    assert len(set(index.tolist())) == 8
    on_batch = replace(p, outer_loss=lambda s, h: loss.mean(s, h, index))
    exact = hypergradient(on_batch, H, estimator)
    assert_alike(exact._replace(gradient_evals=found.gradient_evals), found, 1e-10)
    assert found.gradient_evals == estimator.cost(p, H)
    passes = 3 / 3 if isinstance(estimator, ES) else 1  # three runs, a third each
    saved = p.outer_cost * (1 - 8 / VAL) * passes
    assert exact.gradient_evals - found.gradient_evals == pytest.approx(saved)
    hypergradient(watched, {**H, "lr": H["lr"] + 1e-9}, estimator)
    fresh = isinstance(estimator, ShortTerm | Forward) or set(looked[-1].tolist())
    assert fresh != set(index.tolist())  # by the step, or others at another λ


class Sampled:
    name, horizon, budget = "sampled", 8, 300.0
    space = Space(lr=Positive(0.05, low=1e-3, high=1.0))

    def sample(self, seed):
        net = mlp()
        return module_problem(
            net,
            loss=F.cross_entropy,
            train=data(),
            val=data(n=VAL, seed=1),
            batch_size=8,
            val_batch_size=3,
            val_batches=2,
            optimizer=lambda h: optim.sgd(h["lr"]),
        )


@pytest.mark.parametrize("estimator", [Reverse(8), ShortTerm(2)], ids=str)
def test_what_a_run_is_reported_to_reach_is_the_loss_over_all(estimator):
    result = optimize(Sampled(), estimator, progress=False)
    p = Sampled().sample(0)
    last = {"lr": torch.tensor(result.schedule[-1][1]["lr"])}
    whole = float(p.outer_loss(result.state, last))
    assert result.outer_loss == pytest.approx(whole, rel=1e-12)
    assert result.reports[-1].gradient_evals <= Sampled.budget
    assert result.outer_loss <= result.start_loss


SIZES = {
    "val_batch_size=0": ({"val_batch_size": 0}, "val_batch_size >= 1, but got 0"),
    "no number": ({"val_batch_size": 2.5}, "val_batch_size >= 1, but got 2.5"),
    "val_batches=0": (
        {"val_batch_size": 4, "val_batches": 0},
        "val_batches >= 1, but got 0",
    ),
    "val_batches alone": ({"val_batches": 2}, "needs val_batch_size below the 14 exam"),
    "no function": ({"collate": 3}, "collate must be a function of a list of examples"),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_that_do_not_fit_are_refused(name):
    given, message = SIZES[name]
    with pytest.raises(ValueError, match=message) as caught:
        problem(**given)
    assert "\n" not in str(caught.value)
