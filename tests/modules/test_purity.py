"""Modules that are not pure: what is seeded, what is refused, what is let go."""

import itertools
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raymeta.compile.trace import Untraceable
from raymeta.hypergrad import Checkpointed, Forward, Reverse, hypergradient
from raymeta.modules import module_problem
from raymeta.testing.truth import largest_relative_error, run_differences
from tests.support.module_cases import VAL, data, hparams_of, mlp, problem_of

pytestmark = pytest.mark.usefixtures("float64")


class Layer(nn.Module):
    """A layer in the middle, of whatever its attribute `f` does.

    Args:
        f: (the layer, x) -> x.
        **kept: plain attributes.
    """

    def __init__(self, f: Callable[[Any, Tensor], Tensor], **kept: Any) -> None:
        super().__init__()
        self.f, self.scale = f, nn.Parameter(torch.tensor(1.2))
        vars(self).update(kept)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.f(self, x)


# ------------------------------------------------------------------------------ seeded


def python_depth(layer: Layer, x: Tensor) -> Tensor:
    return x.tanh() if random.random() < 0.5 else x


def numpy_depth(layer: Layer, x: Tensor) -> Tensor:
    return x.tanh() if np.random.rand() < 0.5 else x  # noqa: NPY002


def python_shuffle(layer: Layer, x: Tensor) -> Tensor:
    order = list(range(x.shape[1]))
    random.shuffle(order)
    return x[:, order]


def seeds_itself(layer: Layer, x: Tensor) -> Tensor:
    random.seed(3)
    return x * random.random()


SEEDED = [python_depth, numpy_depth, python_shuffle, seeds_itself]


@pytest.mark.parametrize("f", SEEDED, ids=lambda f: f.__name__)
def test_numbers_of_python_and_numpy_are_a_function_of_seed_and_step(f):
    states = random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    problem = problem_of(mlp(Layer(f)))
    first, again, *others = (
        hypergradient(problem, hparams_of(), estimator).grads
        for estimator in (Reverse(6), Reverse(6), Checkpointed(6), Forward(6))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(largest_relative_error(grads, first) < 1e-10 for grads in others)
    truth = run_differences(problem, hparams_of(), 6)
    assert largest_relative_error(first, truth) < 1e-7
    assert (random.getstate(), repr(np.random.get_state())) == states  # noqa: NPY002


def test_another_seed_takes_another_way():
    problems = [problem_of(mlp(Layer(python_shuffle)), seed=seed) for seed in (1, 2, 3)]
    values = {
        float(hypergradient(problem, hparams_of(), Reverse(4)).grads["lr"])
        for problem in problems
    }
    assert len(values) == 3


def test_a_step_with_numbers_of_the_host_is_no_fixed_graph():
    problem = problem_of(mlp(Layer(python_depth)))
    with pytest.raises(Untraceable, match="compile=True needs a step whose operators"):
        hypergradient(problem, hparams_of(), Reverse(2, compile=True))


# ----------------------------------------------------------------------------- refused


def float_of_before(layer: Layer, x: Tensor) -> Tensor:
    y = x + 0.1 * layer.last
    layer.last = float(y.detach().mean())
    return y


def tensor_of_before(layer: Layer, x: Tensor) -> Tensor:
    y = x + 0.1 * layer.last
    layer.last = y.detach().mean()
    return y


def average_in_place(layer: Layer, x: Tensor) -> Tensor:
    layer.mean.mul_(0.9).add_(0.1 * x.detach().mean())
    return x


def late(layer: Layer, x: Tensor) -> Tensor:
    layer.calls += 1
    return x * (2 if layer.calls > 500 else 1)


def iterator(layer: Layer, x: Tensor) -> Tensor:
    return x * (2 if next(layer.count) > 500 else 1)


def log(layer: Layer, x: Tensor) -> Tensor:
    layer.log.append(len(x))
    return x


def own_random(layer: Layer, x: Tensor) -> Tensor:
    return x * (2 if layer.rng.random() < 1e-6 else 1)


def own_numpy_of_old(layer: Layer, x: Tensor) -> Tensor:
    return x * (2 if layer.rng.rand() < 1e-6 else 1)


def own_torch(layer: Layer, x: Tensor) -> Tensor:
    return x + torch.randn(x.shape, generator=layer.rng)


def clock(layer: Layer, x: Tensor) -> Tensor:
    return x + time.perf_counter() % 1


def unseeded(layer: Layer, x: Tensor) -> Tensor:
    return x + np.random.default_rng().random()


CALLS = {"n": 0}
SHARED = random.Random(0)


def of_a_global(layer: Layer, x: Tensor) -> Tensor:
    CALLS["n"] += 1
    return x * (2 if CALLS["n"] > 500 else 1)


def shared_random(layer: Layer, x: Tensor) -> Tensor:
    return x * (2 if SHARED.random() < 1e-6 else 1)


def of_a_class(layer: Layer, x: Tensor) -> Tensor:
    type(layer).calls = getattr(type(layer), "calls", 0) + 1
    return x


def closure() -> Callable[..., Tensor]:
    n = 0

    def f(layer: Layer, x: Tensor) -> Tensor:
        nonlocal n
        n += 1
        return x * (2 if n > 500 else 1)

    return f


MOVES = "needs a pure function of tensors, but {} moves from call to call, .*: register"
SEEDLESS = "cannot seed the random generator {}, .*: draw from torch's, Python's or num"
DIFFERS = "but Layer at 1 gives other outputs when it is called again: keep"
IMPURE = {
    "a float": (float_of_before, {"last": 0.0}, MOVES.format("Layer.last at 1")),
    "a tensor": (tensor_of_before, {"last": 0.0}, MOVES.format("Layer.last at 1")),
    "a tensor in place": (
        average_in_place,
        {"mean": torch.zeros(())},
        MOVES.format("Layer.mean at 1"),
    ),
    "a counter": (late, {"calls": 0}, MOVES.format("Layer.calls at 1")),
    "an iterator": (
        iterator,
        {"count": itertools.count()},
        MOVES.format("Layer.count at 1"),
    ),
    "a list that grows": (log, {"log": []}, MOVES.format("Layer.log at 1")),
    "a queue": (log, {"log": deque(maxlen=9)}, MOVES.format("Layer.log at 1")),
    "random.Random": (
        own_random,
        {"rng": random.Random(0)},
        SEEDLESS.format("Layer.rng at 1"),
    ),
    "numpy's Generator": (
        own_random,
        {"rng": np.random.default_rng(0)},
        SEEDLESS.format("Layer.rng at 1"),
    ),
    "numpy's RandomState": (
        own_numpy_of_old,
        {"rng": np.random.RandomState(0)},
        SEEDLESS.format("Layer.rng at 1"),
    ),
    "torch.Generator": (
        own_torch,
        {"rng": torch.Generator().manual_seed(0)},
        SEEDLESS.format("Layer.rng at 1"),
    ),
    "the clock": (clock, {}, DIFFERS),
    "a generator without a seed": (unseeded, {}, DIFFERS),
    "a global": (of_a_global, {}, MOVES.format(r"Layer.f at 1")),
    "a shared generator": (shared_random, {}, SEEDLESS.format("Layer.f at 1")),
    "a class's attribute": (of_a_class, {}, MOVES.format("Layer.calls")),
    "a closure": (closure(), {}, MOVES.format("Layer.f at 1")),
}


@pytest.mark.parametrize(("f", "kept", "message"), IMPURE.values(), ids=IMPURE)
def test_refuses_what_an_earlier_call_moves(f, kept, message):
    with pytest.raises(ValueError, match=message) as refusal:
        problem_of(mlp(Layer(f, **kept)))
    assert "\n" not in str(refusal.value)


def test_refuses_what_moves_in_evaluation_alone():
    def f(layer: Layer, x: Tensor) -> Tensor:
        layer.calls += not layer.training
        return x

    with pytest.raises(ValueError, match=MOVES.format("Layer.calls at 1")):
        problem_of(mlp(Layer(f, calls=0)))


def test_numbers_of_the_host_in_evaluation_alone_are_seeded_too():
    def f(layer: Layer, x: Tensor) -> Tensor:
        return x if layer.training else x * random.random()

    problem = problem_of(mlp(Layer(f)))
    state = problem.init(hparams_of())
    values = {float(problem.outer_loss(state, {})) for _ in range(3)}
    assert len(values) == 1


def test_refuses_a_hook_with_a_state_of_its_own():
    calls = [0]

    def acts(layer: nn.Module, inputs: tuple, outputs: Tensor) -> Tensor:
        calls[0] += 1
        return outputs * (2 if calls[0] > 500 else 1)

    module = mlp()
    module[0].register_forward_hook(acts)
    with pytest.raises(ValueError, match=r"a hook of Linear \(calls\[0\]\) moves"):
        problem_of(module)


# ----------------------------------------------------------------------------- allowed


def keeps_its_output(layer: Layer, x: Tensor) -> Tensor:
    layer.last = x.tanh()
    return layer.last


def keeps_in_a_dict(layer: Layer, x: Tensor) -> Tensor:
    layer.maps["x"] = x
    return x.tanh()


def keeps_the_last(layer: Layer, x: Tensor) -> Tensor:
    layer.queue.append(x)
    return x.tanh()


def keeps_shapes(layer: Layer, x: Tensor) -> Tensor:
    layer.rows, layer.shape = len(x), x.shape
    return x.tanh()


def keeps_a_number(layer: Layer, x: Tensor) -> Tensor:
    layer.size = float(x.detach().abs().mean())
    return x.tanh()


def makes_a_table(layer: Layer, x: Tensor) -> Tensor:
    if layer.table is None:
        layer.table = torch.linspace(0.5, 1, x.shape[1])
    return x * layer.table


def makes_a_buffer(layer: Layer, x: Tensor) -> Tensor:
    if "table" not in layer._buffers:
        layer.register_buffer("table", torch.linspace(0.5, 1, x.shape[1]))
    return x * layer.table


def passes_along(layer: Layer, x: Tensor) -> Tensor:
    layer.skips.append(x)
    return x.tanh() + layer.skips.pop()


def sets_a_mode(layer: Layer, x: Tensor) -> Tensor:
    layer.eval()
    return x.tanh()


PURE = {
    "its output": (keeps_its_output, {"last": None}),
    "a map in a dict": (keeps_in_a_dict, {"maps": {}}),
    "a map in another kind of dict": (keeps_in_a_dict, {"maps": OrderedDict()}),
    "the last one in a queue": (keeps_the_last, {"queue": deque([0], maxlen=1)}),
    "shapes": (keeps_shapes, {}),
    "a number for a log": (keeps_a_number, {"size": 0.0}),
    "a table": (makes_a_table, {"table": None}),
    "a buffer": (makes_a_buffer, {}),
    "a stack": (passes_along, {"skips": []}),
    "a mode": (sets_a_mode, {}),
}


@pytest.mark.parametrize(("f", "kept"), PURE.values(), ids=PURE)
def test_what_a_layer_keeps_of_its_last_call_alone_is_let_go(f, kept, networks):
    problem = problem_of(mlp(Layer(f, **kept)))
    before = [
        {name: repr(x) for name, x in vars(layer).items()}
        for network in networks
        for layer in network.module.modules()
    ]
    truth = run_differences(problem, hparams_of(), 4)
    for estimator in (Reverse(4), Checkpointed(4), Forward(4)):
        grads = hypergradient(problem, hparams_of(), estimator).grads
        assert largest_relative_error(grads, truth) < 1e-7
    assert before == [
        {name: repr(x) for name, x in vars(layer).items()}
        for network in networks
        for layer in network.module.modules()
    ]


@pytest.fixture
def networks(monkeypatch) -> list[Any]:
    """The networks of the problems that are made meanwhile."""
    made: list[Any] = []
    real = module_problem.__globals__["Network"]

    def note(*args: Any) -> Any:
        made.append(real(*args))
        return made[-1]

    monkeypatch.setitem(module_problem.__globals__, "Network", note)
    return made


@pytest.mark.parametrize("batch_size", [None, 8])
def test_the_data_stay_as_they_are_where_a_module_writes_into_them(batch_size):
    written, read = (
        nn.Sequential(Layer(f), mlp())
        for f in (lambda layer, x: x.mul_(0.7), lambda layer, x: x * 0.7)
    )
    train, val = data(), data(n=VAL, seed=1)
    before = [x.clone() for x in (*train.tensors, *val.tensors)]
    problem = problem_of(written, train=train, val=val, batch_size=batch_size)
    other = problem_of(read, batch_size=batch_size)
    for estimator in (Reverse(4), Checkpointed(4), Forward(4)):
        first, second = (
            hypergradient(p, hparams_of(), estimator).grads for p in (problem, other)
        )
        assert largest_relative_error(first, second) < 1e-12
    assert all(map(torch.equal, (*train.tensors, *val.tensors), before))


def test_a_hook_that_only_looks_may_count():
    seen: list[int] = []
    module = mlp()
    module[0].register_forward_hook(lambda layer, x, y: seen.append(1))
    problem = problem_of(module)
    result = hypergradient(problem, hparams_of(), Reverse(3))
    truth = run_differences(problem, hparams_of(), 3)
    assert largest_relative_error(result.grads, truth) < 1e-7
    assert seen
