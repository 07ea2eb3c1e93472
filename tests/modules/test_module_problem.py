"""Training modules, against ordinary training loops and finite differences."""

import gc
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta import optim
from raymeta.compile.recurrence import Recurrence
from raymeta.hypergrad import Forward, Reverse, ShortTerm, hypergradient
from raymeta.hypergrad.base import advance
from raymeta.modules import module_problem
from raymeta.outer.report import plain_run
from raymeta.problem import BilevelProblem
from raymeta.testing.truth import largest_relative_error, run_differences
from tests.support.module_cases import (
    CLOSE,
    TRAIN,
    VAL,
    Tied,
    both,
    data,
    frozen,
    hparams_of,
    mlp,
    problem_of,
    ridge,
    train_with_torch,
)

pytestmark = pytest.mark.usefixtures("float64")


class Counting(nn.Module):
    """Buffers that are bound anew, not written into; one of them an integer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.8 * self.mean + 0.2 * x.mean(0)
            self.calls = self.calls + 1
        return x - self.mean


class Writing(Counting):
    """The same, written in place."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.8).add_(0.2 * x.mean(0))
            self.calls.add_(1)
        return x - self.mean


class Conv(nn.Module):
    """Images and sequences down to three outputs, through one batch norm."""

    def __init__(self, layer: type, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm = layer(2, 4, 2), norm
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.first(x)).tanh().flatten(2).mean(2))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 3), nn.Linear(2, 3, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.one(x) - self.two(y)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (5,)),
    "frozen weight": (frozen, (5,)),
    "tied weights": (Tied, (5,)),
    "buffers bound anew": (lambda: mlp(Counting()), (5,)),
    "buffers written": (lambda: mlp(Writing()), (5,)),
    "norm": (lambda: mlp(nn.BatchNorm1d(6)), (5,)),
    "norm, mean over batches": (lambda: mlp(nn.BatchNorm1d(6, momentum=None)), (5,)),
    "norm, no weights": (lambda: mlp(nn.BatchNorm1d(6, affine=False)), (5,)),
    "norm, no statistics": (
        lambda: mlp(nn.BatchNorm1d(6, track_running_stats=False)),
        (5,),
    ),
    "norm 1d": (lambda: Conv(nn.Conv1d, nn.BatchNorm1d(4, eps=0.1)), (2, 4)),
    "norm 2d": (lambda: Conv(nn.Conv2d, nn.BatchNorm2d(4, momentum=0.5)), (2, 3, 3)),
    "norm 3d": (lambda: Conv(nn.Conv3d, nn.BatchNorm3d(4)), (2, 2, 2, 3)),
    "norm twice": (
        lambda: mlp(nn.BatchNorm1d(6), nn.Linear(6, 6), nn.BatchNorm1d(6)),
        (5,),
    ),
}
every_module = pytest.mark.parametrize("name", MODULES)


def seeded(name: str) -> tuple[nn.Module, BilevelProblem]:
    make, shape = MODULES[name]
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        module = make()
    return module, problem_of(module, *shape)


@every_module
def test_a_plain_run_equals_an_ordinary_loop(name):
    module, problem = seeded(name)
    state, value = plain_run(problem, hparams_of(), 13)
    train_with_torch(module, problem, 13)
    ours, theirs = state.params | state.buffers, module.state_dict()
    assert set(ours) <= set(theirs)
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], **CLOSE)
    *inputs, targets = data(*MODULES[name][1], n=VAL, seed=1).tensors
    truth = F.cross_entropy(module(*inputs), targets).detach()
    assert value == pytest.approx(float(truth), rel=1e-12)


@every_module
@both
def test_the_hypergradient_is_the_true_one(name, estimator):
    _, problem = seeded(name)
    result = hypergradient(problem, hparams_of(), estimator)
    truth = run_differences(problem, hparams_of(), 6)
    assert largest_relative_error(result.grads, truth) < 1e-7


@every_module
def test_the_module_is_never_changed(name):
    module, problem = seeded(name)
    next(module.children()).eval()
    before = deepcopy(module.state_dict())
    modes = [layer.training for layer in module.modules()]
    flags = [p.requires_grad for p in module.parameters()]
    forwards = [vars(layer).get("forward") for layer in module.modules()]
    for estimator in (Reverse(2), Forward(2), ShortTerm(2)):
        hypergradient(problem, hparams_of(), estimator)
    plain_run(problem, hparams_of(), 2)
    for key, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[key])
    assert [layer.training for layer in module.modules()] == modes
    assert [p.requires_grad for p in module.parameters()] == flags
    assert all(p.grad is None for p in module.parameters())
    assert [vars(layer).get("forward") for layer in module.modules()] == forwards


def test_training_runs_in_training_mode_whatever_the_modules_own():
    values = [
        plain_run(problem_of(module), hparams_of(), 3)[1]
        for module in (mlp(nn.BatchNorm1d(6)).train(), mlp(nn.BatchNorm1d(6)).eval())
    ]
    assert values[0] == values[1]


def test_training_the_module_afterwards_does_not_move_the_start():
    module = mlp(nn.BatchNorm1d(6))
    problem = problem_of(module)
    before = plain_run(problem, hparams_of(), 4)[1]
    train_with_torch(module, problem, 3)
    with torch.no_grad():
        module[0].weight.zero_()
    assert plain_run(problem, hparams_of(), 4)[1] == before


def test_a_second_problem_starts_from_the_modules_present_weights():
    module = mlp()
    train_with_torch(module, problem_of(module), 3)
    start = problem_of(module).init(hparams_of()).params
    for name, p in module.named_parameters():
        assert torch.equal(start[name], p)


def test_frozen_parameters_are_no_part_of_the_state():
    module = frozen()
    problem = problem_of(module)
    state = problem.init(hparams_of())
    assert set(state.params) == {"0.bias", "2.weight", "2.bias"}
    assert set(state.memory.slots) == set(state.params)
    before = float(problem.outer_loss(state, {}))
    with torch.no_grad():
        module[0].weight.zero_()
    assert float(problem.outer_loss(state, {})) == before
    assert float(problem_of(module).outer_loss(state, {})) != before


def test_tied_weights_are_one_parameter():
    module, problem = seeded("tied weights")
    params = problem.init(hparams_of()).params
    assert len(params) == len(list(module.parameters())) == 5
    assert "decode.weight" not in params


def test_several_inputs():
    module = TwoInputs()
    generator = torch.Generator().manual_seed(2)
    parts = [
        TensorDataset(
            torch.randn(n, 5, generator=generator),
            torch.randn(n, 2, generator=generator),
            torch.randint(3, (n,), generator=generator),
        )
        for n in (TRAIN, VAL)
    ]
    problem = problem_of(module, train=parts[0], val=parts[1])
    state, value = plain_run(problem, hparams_of(), 9)
    train_with_torch(module, problem, 9)
    for name, p in module.named_parameters():
        torch.testing.assert_close(state.params[name], p.detach(), **CLOSE)
    x, y, targets = parts[1].tensors
    truth = F.cross_entropy(module(x, y), targets).detach()
    assert value == pytest.approx(float(truth), rel=1e-12)


def test_float64_hyperparameters_leave_float32_weights_as_they_are():
    module = mlp(nn.BatchNorm1d(6)).float()
    parts = [
        TensorDataset(x.float(), y)
        for x, y in (data().tensors, data(n=VAL, seed=1).tensors)
    ]
    problem = problem_of(module, train=parts[0], val=parts[1])
    before = problem.init(hparams_of())
    after = advance(problem, hparams_of(), before, 0, 2)
    for name, tensor in (after.params | after.buffers).items():
        assert tensor.dtype == (before.params | before.buffers)[name].dtype
    result = hypergradient(problem, hparams_of(), Reverse(2))
    assert {g.dtype for g in result.grads.values()} == {torch.float64}


@pytest.mark.parametrize(
    "estimator",
    [ShortTerm(1), Reverse(2), Forward(1)],
    ids=lambda e: type(e).__name__,
)
def test_hyper_steps_leave_no_tensors_behind(estimator):
    """Without the cycle collector: what is dropped is freed at once."""
    problem = problem_of(mlp(nn.BatchNorm1d(6), nn.Dropout(0.3)), regularizer=ridge)
    hparams = hparams_of() | {"l2": torch.full((6,), 0.01)}

    def live() -> int:
        return sum(issubclass(type(x), Tensor) for x in gc.get_objects())

    rollout = estimator.init(problem, hparams)
    gc.collect()
    gc.disable()
    try:
        counts = []
        for _ in range(3):
            for _ in range(40):
                result, rollout = estimator.estimate(problem, hparams, rollout)
                hparams = {k: v - 1e-6 * result.grads[k] for k, v in hparams.items()}
            counts.append(live())
        assert counts[0] == counts[1] == counts[2]
    finally:
        gc.enable()


@pytest.mark.parametrize("is_causal", [None, False, True])
def test_a_layer_that_looks_at_its_mask_can_be_traced(is_causal):
    # nn.TransformerEncoder asks of the values of its mask whether it is causal.
    layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    class Causal(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder
            mask = nn.Transformer.generate_square_subsequent_mask(3)
            self.register_buffer("mask", mask)

        def forward(self, x):
            return self.encoder(x, mask=self.mask, is_causal=is_causal)

    x = torch.randn(4, 3, 8)
    problem = module_problem(
        Causal(),
        loss=F.mse_loss,
        train=(x, x.flip(0)),
        val=(x, x),
        optimizer=lambda h: optim.sgd(h["lr"]),
    )
    hparams = {"lr": torch.tensor(0.1)}
    state, batch = problem.init(hparams), problem.batch(0)
    traced = Recurrence(problem.step, compiled=False)(state, hparams, [batch])
    eager = problem.step(state, hparams, batch)
    for name, w in eager.params.items():
        torch.testing.assert_close(traced.params[name], w)
