"""Where λ enters training."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta import optim
from raymeta.hypergrad import (
    Checkpointed,
    Forward,
    Implicit,
    Reverse,
    ShortTerm,
    hypergradient,
)
from raymeta.hypergrad.base import advance
from raymeta.modules import (
    smoothed_cross_entropy,
)
from raymeta.outer.report import plain_run
from raymeta.problem import BilevelProblem
from raymeta.testing.truth import (
    central_differences,
    largest_relative_error,
    run_differences,
)
from raymeta.types import Hparams, Tensors
from tests.support.module_cases import (
    CLOSE,
    SIZE,
    TRAIN,
    VAL,
    both,
    data,
    frozen,
    hparams_of,
    mlp,
    problem_of,
    ridge,
)

pytestmark = pytest.mark.usefixtures("float64")


def test_metrics_carry_no_graph_and_need_test_data():
    problem = problem_of(mlp(), test=data(n=9, seed=2))
    leaves = {k: v.requires_grad_() for k, v in hparams_of().items()}
    state = advance(problem, leaves, problem.init(leaves), 0, 1)
    assert not problem.metrics(state, leaves)["test_loss"].requires_grad
    assert problem_of(mlp()).metrics is None


@both
def test_a_regularizers_hypergradient_is_the_true_one(estimator):
    problem = problem_of(mlp(), regularizer=ridge)
    hparams = hparams_of() | {"l2": torch.tensor([0.01, 0.02, 0.0, 0.03])}
    result = hypergradient(problem, hparams, estimator)
    truth = run_differences(problem, hparams, 6)
    assert largest_relative_error(result.grads, truth) < 1e-7


def test_a_number_times_a_hyperparameter_keeps_single_precision():
    def half_ridge(params: dict[str, Tensor], hparams: Hparams) -> Tensor:
        return 0.5 * hparams["l2"] * sum(p.square().sum() for p in params.values())

    parts = [
        TensorDataset(x.float(), y)
        for x, y in (data().tensors, data(n=VAL, seed=1).tensors)
    ]
    hparams = {k: v.float() for k, v in hparams_of().items()}
    hparams["l2"] = torch.tensor(0.1, dtype=torch.float32)
    module = mlp().float()
    problem = problem_of(module, train=parts[0], val=parts[1], regularizer=half_ridge)
    rollout = Forward(3).init(problem, hparams)
    result, rollout = Forward(3).estimate(problem, hparams, rollout)
    assert {z.dtype for z in rollout.carry} == {torch.float32}
    truth = hypergradient(problem, hparams, Reverse(3))
    assert largest_relative_error(result.grads, truth.grads) < 1e-4


def test_a_regularizer_is_part_of_the_inner_loss_alone():
    plain, regular = problem_of(mlp()), problem_of(mlp(), regularizer=ridge)
    hparams = hparams_of() | {"l2": torch.full((4,), 0.1)}
    state, batch = plain.init(hparams), plain.batch(0)
    assert torch.equal(
        plain.outer_loss(state, hparams), regular.outer_loss(state, hparams)
    )
    difference = regular.inner_loss(state, hparams, batch) - plain.inner_loss(
        state, hparams, batch
    )
    torch.testing.assert_close(difference, ridge(state.params, hparams), **CLOSE)


def test_a_frozen_parameter_is_not_regularized():
    names: list[set[str]] = []

    def look(params: dict[str, Tensor], hparams: Hparams) -> Tensor:
        names.append(set(params))
        return torch.zeros(())

    for module in (mlp(), frozen()):
        problem = problem_of(module, regularizer=look)
        problem.step(problem.init(hparams_of()), hparams_of(), problem.batch(0))
    assert names[0] - names[-1] == {"0.weight"}


def test_the_outer_cost_is_the_ratio_of_the_data():
    assert problem_of(mlp()).outer_cost == VAL / SIZE
    assert problem_of(mlp(), batch_size=None).outer_cost == VAL / TRAIN


# ---------------------------------------------------------------- the start of training


def scaled(params: Tensors, hparams: Hparams) -> Tensors:
    return {
        name: p * hparams["scale"] if name.endswith("weight") else hparams[name]
        for name, p in params.items()
    }


@both
def test_initial_weights_and_their_scale(estimator):
    problem = problem_of(mlp(), init_params=scaled)
    biases = {"0.bias": torch.linspace(-1, 1, 6), "2.bias": torch.tensor([0.1, 0.2, 0])}
    hparams = hparams_of(scale=torch.tensor(1.4), **biases)
    result = hypergradient(problem, hparams, estimator)
    truth = run_differences(problem, hparams, 6)
    assert largest_relative_error(result.grads, truth) < 1e-7


# ---------------------------------------------------------------------- training losses


def per_example(outputs: Tensor, targets: Tensor, h: Hparams, index: Tensor) -> Tensor:
    return smoothed_cross_entropy(outputs, targets, weights=h["weights"][index])


def smoothed(outputs: Tensor, targets: Tensor, h: Hparams, index: Tensor) -> Tensor:
    return smoothed_cross_entropy(outputs, targets, h["smoothing"])


@both
@pytest.mark.parametrize(
    ("train_loss", "others"),
    [
        (per_example, {"weights": torch.linspace(0.2, 2, TRAIN).double()}),
        (smoothed, {"smoothing": torch.tensor(0.15).double()}),
    ],
    ids=["weights of examples", "label smoothing"],
)
def test_settings_of_the_training_loss(train_loss, others, estimator):
    problem = problem_of(mlp(), train_loss=train_loss)
    hparams = hparams_of(**others)
    result = hypergradient(problem, hparams, estimator)
    truth = run_differences(problem, hparams, 6)
    assert largest_relative_error(result.grads, truth) < 1e-7


def test_an_example_that_no_step_saw_has_no_derivative():
    problem = problem_of(mlp(), train_loss=per_example)
    hparams = hparams_of(weights=torch.ones(TRAIN))
    grads = hypergradient(problem, hparams, Reverse(2)).grads["weights"]
    seen = {i for t in range(2) for i in problem.batch(t).data.index.tolist()}
    assert len(seen) == 2 * SIZE
    assert set(grads.nonzero().flatten().tolist()) == seen


def test_the_outer_loss_is_not_the_training_loss():
    plain, other = problem_of(mlp()), problem_of(mlp(), train_loss=smoothed)
    state, hparams = plain.init(hparams_of()), hparams_of(smoothing=torch.tensor(0.9))
    assert torch.equal(
        plain.outer_loss(state, hparams), other.outer_loss(state, hparams)
    )
    batch = plain.batch(0)
    ours, theirs = (p.inner_loss(state, hparams, batch) for p in (plain, other))
    assert abs(float(ours - theirs)) > 1e-3


class Loss(nn.Module):
    """A loss per example from logits and targets: 105,281 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 320), nn.Linear(320, 320)
        self.three = nn.Linear(320, 1)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        x = torch.cat([outputs, F.one_hot(targets, 3)], 1)
        return F.softplus(self.three(self.two(self.one(x).tanh()).tanh())).mean()


def learned_loss(**others) -> tuple[BilevelProblem, Hparams]:
    """A problem beside whose cross entropy a network learns, and its weights."""
    with torch.random.fork_rng([]):
        torch.manual_seed(4)
        net = Loss()
    weights = {f"loss.{name}": p.detach() for name, p in net.named_parameters()}

    def train_loss(
        outputs: Tensor, targets: Tensor, h: Hparams, index: Tensor
    ) -> Tensor:
        own = {name: h[f"loss.{name}"] for name, _ in net.named_parameters()}
        learned = functional_call(net, own, (outputs, targets))
        return learned + F.cross_entropy(outputs, targets)

    return problem_of(mlp(), train_loss=train_loss, **others), weights


def test_a_learned_loss_of_a_hundred_thousand_weights():
    problem, weights = learned_loss()
    hparams = hparams_of(**weights)
    assert sum(value.numel() for value in hparams.values()) > 1e5
    reverse = hypergradient(problem, hparams, Reverse(6)).grads
    again = hypergradient(problem, hparams, Checkpointed(6)).grads
    assert largest_relative_error(again, reverse) < 1e-8
    torch.manual_seed(5)
    direction = {name: torch.randn_like(value) for name, value in hparams.items()}

    def along(h: Hparams) -> float:
        moved = {k: v + h["by"] * direction[k] for k, v in hparams.items()}
        return plain_run(problem, moved, 6)[1]

    truth = central_differences(along, {"by": torch.tensor(0.0)}, step=1e-3)["by"]
    slope = sum((reverse[name] * direction[name]).sum() for name in hparams)
    assert float(slope) == pytest.approx(float(truth), rel=1e-7)


def test_a_learned_loss_by_the_implicit_function_theorem():
    problem, weights = learned_loss(
        batch_size=None,
        regularizer=lambda params, h: ridge(params, {"l2": torch.full((4,), 0.1)}),
        optimizer=lambda h: optim.sgd(0.5, momentum=0.5),
    )
    implicit = hypergradient(problem, weights, Implicit(150))
    reverse = hypergradient(problem, weights, Reverse(150))
    assert largest_relative_error(implicit.grads, reverse.grads) < 1e-6


def test_looking_one_step_ahead_at_the_start_is_reverse_mode_over_one_step():
    problem, weights = learned_loss()
    hparams = {"lr": torch.tensor(0.2), "momentum": 0.6} | weights
    reverse = hypergradient(problem, hparams, Reverse(1)).grads
    ahead = hypergradient(problem, hparams, ShortTerm(1)).grads
    assert all(g.norm() > 0 for g in reverse.values())
    assert largest_relative_error(ahead, reverse) < 1e-10


# ----------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            {"frozen": lambda h: {"0.weight": torch.zeros(6, 5), "1.rate": h["lr"]}},
            r"frozen must return tensors named \[\], but differs in \['0.weight', ",
        ),
        (
            {"init_params": lambda params, h: {"0.weight": params["0.weight"]}},
            r"init_params must return tensors named \['0.bias', .* \['0.bias', '2.bi",
        ),
    ],
    ids=["frozen", "init_params"],
)
def test_names_that_the_module_does_not_have(others, message):
    with pytest.raises(ValueError, match=message):
        problem_of(mlp(), **others).init(hparams_of())
