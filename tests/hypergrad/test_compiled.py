"""compile=True: every estimator gives the same, or says before it starts why not."""

import dataclasses
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import raymeta.hypergrad
from raymeta import module_problem, optim
from raymeta._tree import detach, tree_leaves
from raymeta.compile import recurrence
from raymeta.compile.trace import Untraceable
from raymeta.hypergrad import (
    ES,
    PES,
    SOBA,
    Checkpointed,
    Combined,
    Estimator,
    Forward,
    Implicit,
    Neumann,
    Reverse,
    Reversible,
    ShortTerm,
    Smoothed,
    Truncated,
    hypergradient,
)
from raymeta.hypergrad.compiled import CompiledDescent, CompiledStep, compiled
from raymeta.problem import BilevelProblem, Descent
from raymeta.testing.problems import sgd_everything
from raymeta.testing.truth import largest_relative_error
from raymeta.types import Batch, Hparams
from tests.support.memory import assert_flat

pytestmark = pytest.mark.usefixtures("float64")

#: One of each class, and of each way that steps are taken.
ESTIMATORS: dict[str, Estimator] = {
    "Reverse": Reverse(5),
    "Truncated": Truncated(5, window=2),
    "Checkpointed": Checkpointed(5),
    "Reversible": Reversible(5),
    "Forward": Forward(5),
    "ShortTerm": ShortTerm(2),
    "ShortTerm-next": ShortTerm(loss="next_batch"),
    "Implicit": Implicit(5, Neumann(4, 0.1, tolerance=1.0)),
    "SOBA": SOBA(5),
    "ES": ES(5, sigma=0.01, pairs=1),
    "PES": PES(5, sigma=0.01, pairs=1),
}
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)
EXPORTED = [getattr(raymeta.hypergrad, name) for name in raymeta.hypergrad.__all__]
CLASSES = [each for each in EXPORTED if hasattr(each, "estimate")]


def test_every_estimator_has_a_case():
    classes = {cls for cls in CLASSES if dataclasses.is_dataclass(cls)}
    classes -= {Combined, Smoothed}  # of others, which compile or do not
    assert {type(estimator) for estimator in ESTIMATORS.values()} == classes


@every_estimator
def test_every_estimator_runs_eagerly_unless_it_is_told_to_compile(name):
    estimator: Any = ESTIMATORS[name]
    assert estimator.compile is False
    assert dataclasses.replace(estimator, compile=True) != estimator


@cache
def shared() -> BilevelProblem:
    """One for all: its steps are compiled once."""
    return sgd_everything()[0]


def learned(name: str) -> Hparams:
    """The same λ for all, so that they share graphs; but for one that sees less."""
    hparams = sgd_everything()[1]
    del hparams["init_scale"]
    if name in ("Implicit", "SOBA"):
        inner = {"example_weight", "l2"}
        return {k: v if k in inner else float(v) for k, v in hparams.items()}
    return hparams


def with_compile(estimator: Estimator) -> Estimator:
    knobs: Any = estimator
    return dataclasses.replace(knobs, compile=True)


def assert_equal(ours: Any, truth: Any) -> None:
    for mine, own in zip(tree_leaves(ours), tree_leaves(truth), strict=True):
        if isinstance(own, Tensor):
            torch.testing.assert_close(mine, own, rtol=1e-10, atol=1e-13)


@every_estimator
def test_compiled_equals_eager(name):
    hparams, estimator = learned(name), ESTIMATORS[name]
    results = []
    for each in (with_compile(estimator), estimator):
        rollout = each.init(shared(), hparams)
        result, rollout = each.estimate(shared(), hparams, rollout)
        again, rollout = each.estimate(shared(), hparams, rollout)
        results.append((result, again, rollout))
    (ours, *our_rest), (truth, *true_rest) = results
    assert largest_relative_error(ours.grads, truth.grads) < 1e-10
    assert ours.gradient_evals == truth.gradient_evals
    if name != "Reversible":  # which reports what it stored
        assert_equal(our_rest, true_rest)


def test_compiled_outer_steps_leave_no_tensors_behind():
    assert_flat(Reverse(1, compile=True), shared(), learned("Reverse"))


def test_a_module_and_adam():
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(
        torch.randn(24, 3, generator=generator),
        torch.randint(3, (24,), generator=generator),
    )
    torch.manual_seed(0)
    problem = module_problem(
        nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)),
        loss=F.cross_entropy,
        train=data,
        val=data,
        batch_size=8,
        optimizer=lambda h: optim.adam(
            {"0": h["lr"], "2": 0.02}, betas=(h["beta1"], 0.99), eps=1e-4
        ),
    )
    hparams = {"lr": torch.tensor(0.01), "beta1": torch.tensor(0.8)}
    ours = hypergradient(problem, hparams, Truncated(4, window=4, compile=True))
    truth = hypergradient(problem, hparams, Reverse(4))
    assert largest_relative_error(ours.grads, truth.grads) < 1e-10
    assert_equal(ours.outer_loss, truth.outer_loss)


# ------------------------------------------------------------------ a compiled problem


@pytest.fixture
def _replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs run operator by operator: the rest does not depend on how."""
    monkeypatch.setattr(recurrence, "build", lambda graph, *_: graph.forward)


def test_a_problem_is_compiled_once():
    problem, _ = sgd_everything()
    assert compiled(problem, wanted=False) is problem
    ours = compiled(problem)
    assert compiled(problem) is ours is not problem
    assert compiled(ours) is ours
    assert isinstance(ours.step, CompiledDescent)
    assert isinstance(ours.step, Descent)
    assert (ours.inner_loss, ours.outer_cost) == (problem.inner_loss, 20 / 16)
    assert compiled(sgd_everything()[0]) is not ours


def test_a_step_that_is_no_descent_is_compiled_too():
    problem, _ = sgd_everything()
    opaque = dataclasses.replace(problem, step=lambda s, h, b: problem.step(s, h, b))
    assert isinstance(compiled(opaque).step, CompiledStep)


@pytest.mark.usefixtures("_replayed")
@pytest.mark.parametrize("opaque", [False, True], ids=["descent", "opaque"])
def test_a_compiled_step_is_a_step(opaque):
    problem, hparams = sgd_everything()
    eager = problem.step
    if opaque:
        problem = dataclasses.replace(problem, step=lambda s, h, b: eager(s, h, b))
    step, state = compiled(problem).step, detach(problem.init(hparams))
    for t in range(3):
        ours, truth = (f(state, hparams, problem.batch(t)) for f in (step, eager))
        assert_equal(ours, truth)
        state = truth
    if isinstance(step, Descent):
        at = (state.params, state.buffers, hparams, problem.batch(4))
        assert_equal(step.value_and_gradient(*at), eager.value_and_gradient(*at))
        assert_equal(step.gradient(*at), eager.gradient(*at))


def test_a_compiled_step_vectorizes_by_running_eagerly():
    problem, hparams = sgd_everything()
    step, batch = compiled(problem).step, problem.batch(0)
    state = detach(problem.init(hparams))
    rates = torch.tensor([0.1, 0.2, 0.4])

    def at(lr: Tensor, step: Any) -> Any:
        return step(state, {**hparams, "lr": lr}, batch)

    together = vmap(lambda lr: at(lr, step))(rates)
    for i, lr in enumerate(rates):
        alone = at(lr, problem.step).params
        assert_equal({k: w[i] for k, w in together.params.items()}, alone)
    assert not compiled(problem).step._steps._steps._programs


# ---------------------------------------------------------------------------- refusals


@pytest.mark.usefixtures("_replayed")
@pytest.mark.parametrize("name", [n for n in ESTIMATORS if n not in ("ES", "PES")])
def test_a_hyperparameter_without_effect_is_named(name):
    problem, _ = sgd_everything()
    hparams = learned(name) | {"unused": torch.tensor(1.0)}
    with pytest.raises(ValueError, match="does not depend on hyperparameter 'unused'"):
        hypergradient(problem, hparams, with_compile(ESTIMATORS[name]))


def depends_on_values() -> BilevelProblem:
    """The same, but that a loss above a threshold is doubled in Python."""
    problem, _ = sgd_everything()

    def doubled(params: Any, buffers: Any, h: Hparams, b: Batch) -> Any:
        loss, buffers = problem.step.inner_loss(params, buffers, h, b)
        return (2 * loss if float(b.data[0].sum()) > 0 else loss), buffers

    step = Descent(doubled, problem.step.optimizer)
    return dataclasses.replace(problem, step=step)


@every_estimator
def test_what_cannot_be_traced_is_refused_and_the_state_as_it_was(name):
    problem, hparams, estimator = depends_on_values(), learned(name), ESTIMATORS[name]
    if isinstance(estimator, ES | PES):
        estimator = dataclasses.replace(estimator, vectorized=False)
    rollout = estimator.init(problem, hparams)
    before = [x.clone() for x in tree_leaves(rollout.state) if isinstance(x, Tensor)]
    with pytest.raises(Untraceable, match="compile=True needs a step whose operators"):
        with_compile(estimator).estimate(problem, hparams, rollout)
    after = [x for x in tree_leaves(rollout.state) if isinstance(x, Tensor)]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
    result, _ = estimator.estimate(problem, hparams, rollout)
    fresh = hypergradient(depends_on_values(), hparams, estimator)
    assert_equal(result.grads, fresh.grads)
