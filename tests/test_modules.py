"""Modules as problems, against ordinary training loops and finite differences."""

import gc
from collections import Counter
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from raymeta import module_problem, optim
from raymeta.hypergrad import Forward, Reverse, ShortTerm, hypergradient
from raymeta.hypergrad.base import advance
from raymeta.outer.report import plain_run
from raymeta.problem import BilevelProblem
from raymeta.types import Batch, Hparams
from tests.truth import largest_relative_error, run_differences

pytestmark = pytest.mark.usefixtures("float64")
TRAIN, VAL, SIZE = 22, 14, 8
CLOSE = {"rtol": 1e-12, "atol": 1e-13}
EXACT = [Reverse(6), Forward(6)]
both = pytest.mark.parametrize("estimator", EXACT, ids=["reverse", "forward"])


def data(*shape: int, n: int = TRAIN, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *(shape or (5,)), generator=generator) + 0.3
    return TensorDataset(x, torch.randint(3, (n,), generator=generator))


def mlp(*between: nn.Module) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 6), *between, nn.Tanh(), nn.Linear(6, 3))


def momentum_sgd(hparams: Hparams) -> optim.Optimizer:
    return optim.sgd(hparams["lr"], momentum=hparams["momentum"], weight_decay=0.01)


def hparams_of() -> Hparams:
    return {"lr": torch.tensor(0.2), "momentum": torch.tensor(0.6)}


def problem_of(module: nn.Module, *shape: int, **others) -> BilevelProblem:
    arguments = {
        "loss": F.cross_entropy,
        "train": data(*shape),
        "val": data(*shape, n=VAL, seed=1),
        "optimizer": momentum_sgd,
        "batch_size": SIZE,
        "seed": 3,
    }
    return module_problem(module, **(arguments | others))


def train_with_torch(module: nn.Module, problem: BilevelProblem, steps: int) -> None:
    """Trains the module itself on the problem's batches."""
    module.train()
    free = [p for p in module.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(free, lr=0.2, momentum=0.6, weight_decay=0.01)
    for t in range(steps):
        *inputs, targets = problem.batch(t).data
        sgd.zero_grad()
        F.cross_entropy(module(*inputs), targets).backward()
        sgd.step()
        for buffer in module.buffers():
            buffer.detach_()
    module.eval()


class Tied(nn.Module):
    """One matrix under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(5, 5), nn.Linear(5, 5)
        self.decode.weight = self.encode.weight
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decode(self.encode(x).tanh()))


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


def frozen() -> nn.Module:
    net = mlp()
    net[0].weight.requires_grad_(False)
    return net


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


# ------------------------------------------------------------------------ the same run


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


# ------------------------------------------------------------------ running statistics


def test_running_statistics_live_in_the_state():
    problem = problem_of(mlp(nn.BatchNorm1d(6)))
    first = problem.init(hparams_of())
    second = problem.step(first, hparams_of(), problem.batch(0))
    assert first.buffers["1.running_mean"].tolist() == [0.0] * 6
    assert int(first.buffers["1.num_batches_tracked"]) == 0
    assert int(second.buffers["1.num_batches_tracked"]) == 1
    inputs, _ = problem.batch(0).data
    hidden = F.linear(inputs, first.params["0.weight"], first.params["0.bias"])
    mean, var = second.buffers["1.running_mean"], second.buffers["1.running_var"]
    torch.testing.assert_close(mean, 0.1 * hidden.mean(0), **CLOSE)
    torch.testing.assert_close(var, 0.9 + 0.1 * hidden.var(0), **CLOSE)


@both
def test_the_statistics_part_of_a_hypergradient_is_not_negligible(estimator):
    """A scale of the weights before a norm acts on its statistics alone."""
    module, scale = mlp(nn.BatchNorm1d(6)), {"scale": torch.tensor(1.3)}

    def optimizer(hparams: Hparams) -> optim.Optimizer:
        def update(grads, memory, params, t):
            scaled = {k: p * hparams["scale"] for k, p in params.items() if k[0] == "0"}
            return params | scaled, memory

        return optim.Optimizer(lambda params: (), update)

    problem = problem_of(module, optimizer=optimizer)
    result = hypergradient(problem, scale, estimator)
    truth = run_differences(problem, scale, 6)
    assert abs(float(truth["scale"])) > 1e-3
    assert largest_relative_error(result.grads, truth) < 1e-7


def test_one_value_per_channel_cannot_be_normalized():
    problem = problem_of(mlp(nn.BatchNorm1d(6)), batch_size=1)
    with pytest.raises(ValueError, match=r"more than one value per .*: raise batch_si"):
        problem.step(problem.init(hparams_of()), hparams_of(), problem.batch(0))


def test_inputs_of_a_wrong_rank_are_refused_as_by_torch():
    problem = problem_of(Conv(nn.Conv1d, nn.BatchNorm2d(4)), 2, 4)
    with pytest.raises(ValueError, match=r"expected 4D input \(got 3D input\)"):
        problem.step(problem.init(hparams_of()), hparams_of(), problem.batch(0))


class Louder(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "norm",
    [
        nn.InstanceNorm1d(6, track_running_stats=True),
        nn.SyncBatchNorm(6),
        Louder(6),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_statistics_without_a_derivative_are_refused_before_step_one(norm):
    name = type(norm).__name__
    message = f"cannot differentiate the running statistics of {name}: use nn.BatchNo"
    with pytest.raises(ValueError, match=message):
        problem_of(mlp(norm))


def test_a_norm_that_the_module_itself_keeps_in_evaluation_mode_stays_so():
    class Fixed(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> nn.Module:
            return super().train(False)

    module = mlp(Fixed(6))
    problem = problem_of(module)
    state, _ = plain_run(problem, hparams_of(), 5)
    train_with_torch(module, problem, 5)
    for name, tensor in (state.params | state.buffers).items():
        torch.testing.assert_close(tensor, module.state_dict()[name], **CLOSE)
    assert state.buffers["1.running_mean"].tolist() == [0.0] * 6


# -------------------------------------------------------------------------- randomness


def dropout(**others) -> BilevelProblem:
    return problem_of(mlp(nn.Dropout(0.5)), **others)


def after_one_step(problem: BilevelProblem, t: int, batch: Batch | None = None):
    state = problem.init(hparams_of())
    batch = problem.batch(t) if batch is None else batch
    return problem.step(state, hparams_of(), batch).params["0.weight"]


def test_a_step_done_again_drops_the_same():
    problem = dropout()
    first = after_one_step(problem, 4)
    torch.manual_seed(11)
    after_one_step(problem, 9)
    assert torch.equal(after_one_step(problem, 4), first)
    assert torch.equal(after_one_step(dropout(), 4), first)


def test_another_step_or_seed_drops_others():
    batch = dropout().batch(0)

    def at(t: int, seed: int) -> Tensor:
        moved = Batch(torch.tensor(t), batch.data)
        return after_one_step(dropout(seed=seed), t, moved)

    some = [at(t, seed) for t, seed in ((0, 0), (1, 0), (0, 1), (1, 1), (2, 0))]
    for i, one in enumerate(some):
        assert not any(torch.equal(one, other) for other in some[:i])


def test_dropped_units_differ_between_examples_of_a_batch():
    class Mask(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(64))

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.scale.expand(len(x), 64), 0.5, self.training)

    seen: list[Tensor] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(outputs)
        return outputs.sum()

    problem = problem_of(Mask(), loss=loss)
    problem.inner_loss(problem.init(hparams_of()), hparams_of(), problem.batch(0))
    (outputs,) = seen
    assert set(outputs.unique().tolist()) == {0.0, 2.0}
    assert len({tuple(row) for row in outputs.tolist()}) == SIZE
    assert 0.35 < float((outputs == 0).double().mean()) < 0.65


def test_the_global_generator_is_left_alone():
    problem = dropout()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for estimator in (Reverse(2), Forward(2), ShortTerm(2)):
        hypergradient(problem, hparams_of(), estimator)
    plain_run(problem, hparams_of(), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_is_given_back_after_an_error():
    class Failing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            torch.rand(3)
            raise RuntimeError("out of paper")

    problem = problem_of(Failing(5, 3))
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="out of paper"):
        after_one_step(problem, 0)
    assert torch.equal(torch.get_rng_state(), before)


@both
def test_the_hypergradient_through_dropout_is_the_true_one(estimator):
    problem = dropout()
    result = hypergradient(problem, hparams_of(), estimator)
    truth = run_differences(problem, hparams_of(), 6)
    assert largest_relative_error(result.grads, truth) < 1e-7


def test_the_outer_loss_is_taken_in_evaluation_mode():
    module = mlp(nn.Dropout(0.5), nn.BatchNorm1d(6)).train()
    problem = problem_of(module)
    state = problem.init(hparams_of())
    inputs, targets = data(n=VAL, seed=1).tensors
    truth = F.cross_entropy(deepcopy(module).eval()(inputs), targets).detach()
    value = problem.outer_loss(state, {})
    torch.testing.assert_close(value, truth, **CLOSE)
    # Not so the inner one.
    batch = Batch(torch.tensor(0), [inputs, targets])
    assert abs(float(problem.inner_loss(state, {}, batch) - truth)) > 1e-3


# ----------------------------------------------------------------------------- batches


class MapStyle(Dataset):
    """The same examples one by one; counts what it is asked for."""

    def __init__(self, tensors: TensorDataset) -> None:
        self.tensors, self.asked = tensors.tensors, Counter()

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        self.asked[i] += 1
        return self.tensors[0][i], int(self.tensors[1][i])


def test_a_map_style_data_set_is_the_same_problem():
    problem = problem_of(mlp())
    other = problem_of(mlp(), train=MapStyle(data()), val=MapStyle(data(n=VAL, seed=1)))
    state, value = plain_run(problem, hparams_of(), 7)
    again, same = plain_run(other, hparams_of(), 7)
    assert value == same
    for name, p in state.params.items():
        assert torch.equal(again.params[name], p)


def test_a_step_reads_its_own_examples_only_and_once():
    train, val = MapStyle(data()), MapStyle(data(n=VAL, seed=1))
    problem = problem_of(mlp(), train=train, val=val)
    assert set(val.asked) == set(range(VAL))
    train.asked.clear()
    val.asked.clear()
    plain_run(problem, hparams_of(), 2)
    assert sum(train.asked.values()) == len(train.asked) == 2 * SIZE
    plain_run(problem, hparams_of(), 2)
    assert not val.asked


def numbered(n: int, **others) -> BilevelProblem:
    examples = TensorDataset(torch.arange(n).double().reshape(n, 1), torch.zeros(n))
    return problem_of(nn.Linear(1, 1), train=examples, val=examples, **others)


def indices(problem: BilevelProblem, t: int) -> list[int]:
    batch = problem.batch(t)
    assert batch.index.shape == ()
    assert batch.index.dtype == torch.int64
    assert int(batch.index) == t
    return [int(x) for x in batch.data[0]]


def test_every_epoch_has_every_example_once_in_a_new_order():
    problem = numbered(12, batch_size=3)
    epochs = [
        [i for t in range(4) for i in indices(problem, 4 * epoch + t)]
        for epoch in range(5)
    ]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert list(range(12)) not in epochs


def test_an_epoch_leaves_out_what_fills_no_batch():
    problem = numbered(11, batch_size=4)
    for epoch in range(4):
        seen = indices(problem, 2 * epoch) + indices(problem, 2 * epoch + 1)
        assert len(set(seen)) == 8
    left = [
        set(range(11)) - set(indices(problem, 2 * e) + indices(problem, 2 * e + 1))
        for e in range(4)
    ]
    assert len({frozenset(some) for some in left}) > 1


def test_a_batch_is_a_function_of_seed_and_step():
    problem = numbered(12, batch_size=3, seed=7)
    order = [37, 0, 4, 1000, 1]
    first = {t: indices(problem, t) for t in order}
    again = numbered(12, batch_size=3, seed=7)
    assert {t: indices(again, t) for t in sorted(order)} == first
    torch.manual_seed(1)
    assert {t: indices(problem, t) for t in reversed(order)} == first
    other = numbered(12, batch_size=3, seed=8)
    assert all(indices(other, t) != first[t] for t in order)


def test_the_batch_is_all_of_the_data_by_default():
    problem = numbered(9, batch_size=None)
    assert sorted(indices(problem, 0)) == sorted(indices(problem, 5)) == list(range(9))


def test_targets_keep_their_examples():
    problem = problem_of(mlp())
    x, y = data().tensors
    label = {tuple(row.tolist()): int(target) for row, target in zip(x, y, strict=True)}
    for t in (0, 3, 8):
        inputs, targets = problem.batch(t).data
        assert [label[tuple(row.tolist())] for row in inputs] == targets.tolist()


# -------------------------------------------------------------- metrics and regularizer


def test_metrics_look_at_the_test_data_only_when_called():
    test = MapStyle(data(n=9, seed=2))

    def wrong(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(-1) != targets).double().mean()

    problem = problem_of(mlp(nn.Dropout(0.5)), test=test, metrics={"error": wrong})
    state, _ = plain_run(problem, hparams_of(), 3)
    hypergradient(problem, hparams_of(), Reverse(2))
    assert not test.asked
    metrics = problem.metrics(state, hparams_of())
    assert test.asked == Counter(range(9))
    module = mlp(nn.Dropout(0.5)).eval()
    module.load_state_dict(state.params)
    inputs, targets = test.tensors
    outputs = module(inputs).detach()
    assert set(metrics) == {"test_loss", "test_error"}
    torch.testing.assert_close(metrics["test_loss"], F.cross_entropy(outputs, targets))
    torch.testing.assert_close(metrics["test_error"], wrong(outputs, targets))


def test_metrics_carry_no_graph_and_need_test_data():
    problem = problem_of(mlp(), test=data(n=9, seed=2))
    leaves = {k: v.requires_grad_() for k, v in hparams_of().items()}
    state = advance(problem, leaves, problem.init(leaves), 0, 1)
    assert not problem.metrics(state, leaves)["test_loss"].requires_grad
    assert problem_of(mlp()).metrics is None


def ridge(params: dict[str, Tensor], hparams: Hparams) -> Tensor:
    names = sorted(params)
    squares = torch.stack([params[name].square().sum() for name in names])
    return (hparams["l2"] * squares).sum()


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

    after_one_step(problem_of(mlp(), regularizer=look), 0)
    problem = problem_of(frozen(), regularizer=look)
    problem.step(problem.init(hparams_of()), hparams_of(), problem.batch(0))
    assert names[0] - names[1] == {"0.weight"}


def test_the_outer_cost_is_the_ratio_of_the_data():
    assert problem_of(mlp()).outer_cost == VAL / SIZE
    assert problem_of(mlp(), batch_size=None).outer_cost == VAL / TRAIN


# ----------------------------------------------------------------------------- memory


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


# ---------------------------------------------------------------------------- refusals


class Alone(Dataset):
    def __len__(self) -> int:
        return 9

    def __getitem__(self, i: int) -> Tensor:
        return torch.zeros(5)


def all_frozen() -> nn.Module:
    return mlp().requires_grad_(False)


EMPTY = TensorDataset(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
REFUSED = {
    "nothing to train": (
        lambda: problem_of(all_frozen()),
        "module_problem needs a module with parameters that require grad, but got "
        "Sequential: unfreeze some",
    ),
    "no parameters": (
        lambda: problem_of(nn.Tanh()),
        "with parameters that require grad, but got Tanh",
    ),
    "empty training data": (
        lambda: problem_of(mlp(), train=EMPTY),
        "module_problem needs a non-empty data set, but train is",
    ),
    "empty validation data": (
        lambda: problem_of(mlp(), val=EMPTY),
        "module_problem needs a non-empty data set, but val is",
    ),
    "a batch larger than the data": (
        lambda: problem_of(mlp(), batch_size=TRAIN + 1),
        r"1 <= batch_size <= len\(train\), but got batch_size=23, len\(train\)=22",
    ),
    "no batch": (
        lambda: problem_of(mlp(), batch_size=0),
        r"needs 1 <= batch_size <= len\(train\), but got batch_size=0",
    ),
    "examples without a target": (
        lambda: problem_of(mlp(), train=Alone()),
        r"examples that are tuples \(inputs…, target\), but got train\[0\]=tensor",
    ),
    "one tensor": (
        lambda: problem_of(mlp(), train=TensorDataset(torch.zeros(9, 5))),
        r"examples that are tuples \(inputs…, target\), but got train\[0\]=\(tensor",
    ),
    "metrics of nothing": (
        lambda: problem_of(mlp(), metrics={"error": F.cross_entropy}),
        r"module_problem needs test data for metrics \['error'\]: give test=",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
