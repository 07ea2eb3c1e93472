"""Data as users bring them: read as they stand, or refused in one line."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
)

from raymeta import module_problem, optim
from raymeta._tree import tree_leaves
from raymeta.hypergrad import (
    ES,
    Checkpointed,
    Forward,
    Reverse,
    Truncated,
    hypergradient,
)
from raymeta.modules.datasets import gathered
from raymeta.outer.report import plain_run
from raymeta.problem import BilevelProblem
from raymeta.testing.truth import largest_relative_error, run_differences

pytestmark = pytest.mark.usefixtures("float64")
N, STEPS = 12, 4
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 3, generator=GENERATOR, dtype=torch.float64)
Y = X.sin().sum(1, keepdim=True)
H = {"lr": torch.tensor(0.1, dtype=torch.float64)}


def problem_of(train: Any, val: Any = None, size: int | None = 4, **others: Any):
    val = train if val is None else val
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = nn.Linear(3, 1)
    arguments = {"module": net, "loss": F.mse_loss, "batch_size": size, "seed": 5}
    return module_problem(
        **(arguments | others),
        train=train,
        val=val,
        optimizer=lambda h: optim.sgd(h["lr"]),
    )


def same_batches(one: BilevelProblem, other: BilevelProblem) -> bool:
    pairs = (zip(*map(tree_leaves, (one.batch(t), other.batch(t)))) for t in range(5))  # noqa: B905
    return all(torch.equal(a, b) for pair in pairs for a, b in pair)


class Reads(Dataset):
    """What a function of the index gives."""

    def __init__(self, read: Callable[[int], Any], n: int = N) -> None:
        self.read, self.n = read, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        return self.read(i)


# ------------------------------------------------------------ examples drawn when read

DRAWN = {
    "torch": lambda i: (X[i] + 0.3 * torch.randn(3), Y[i]),
    "python": lambda i: (X[i] * random.uniform(0.5, 1.5), Y[i]),
    "numpy": lambda i: (X[i] + float(np.random.normal()), Y[i]),  # noqa: NPY002
    "now and then": lambda i: (X[i] + (random.random() if i % 2 else 0), Y[i]),
}


@pytest.mark.parametrize("size", [4, None])
@pytest.mark.parametrize("read", DRAWN.values(), ids=DRAWN)
def test_what_is_drawn_is_a_function_of_seed_epoch_and_example(read, size):
    problem, again = (problem_of(Reads(read), size=size) for _ in range(2))
    assert same_batches(problem, again)
    inputs = [problem.batch(t).data.inputs[0] for t in (0, N, 0)]
    assert torch.equal(inputs[0], inputs[2])
    assert not same_batches(problem, problem_of(Reads(read), size=size, seed=6))
    index = [problem.batch(t).data.index for t in range(6)]
    rows = {
        (i, t * 4 // N): row.tolist()
        for t in range(6)
        for i, row in zip(
            index[t].tolist(), problem.batch(t).data.inputs[0], strict=True
        )
    }
    if size is not None:  # two epochs
        assert any(rows[i, 0] != rows[i, 1] for i in range(N))
    else:
        assert not torch.equal(*(problem.batch(t).data.inputs[0] for t in (0, 1)))


@pytest.mark.parametrize("read", DRAWN.values(), ids=DRAWN)
def test_estimators_agree_on_drawn_examples(read):
    problem = problem_of(Reads(read))
    truth = run_differences(problem, H, STEPS)
    estimators = (Reverse(STEPS), Checkpointed(STEPS), Truncated(STEPS, STEPS))
    for estimator in (*estimators, Forward(STEPS), Reverse(STEPS, engine="higher")):
        grads = hypergradient(problem, H, estimator).grads
        assert largest_relative_error(grads, truth) < 1e-6
        again = hypergradient(problem, H, estimator).grads
        assert torch.equal(grads["lr"], again["lr"])
    population = ES(STEPS, sigma=0.1, pairs=1)
    one, two = (hypergradient(problem, H, population) for _ in range(2))
    assert torch.equal(one.outer_loss, two.outer_loss)


def test_reading_leaves_the_generators_as_they_were():
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    problem = problem_of(Reads(DRAWN["torch"]), Reads(DRAWN["numpy"]))
    plain_run(problem, H, 2)
    seen = torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
    assert seen == expected


def test_training_and_validation_data_draw_apart():
    problem = problem_of(Reads(lambda i: (torch.rand(3), Y[i])), size=None)
    state = problem.init(H)
    train = problem.batch(0).data
    outputs = train.inputs[0] @ state.params["weight"].T + state.params["bias"]
    assert float(problem.outer_loss(state, H)) != float(F.mse_loss(outputs, Y))


def _private() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    return Reads(lambda i: (X[i] + torch.rand(3, generator=generator), Y[i]))


def _counting() -> Dataset:
    calls = []

    def read(i: int) -> tuple[Tensor, Tensor]:
        calls.append(i)
        return X[i] * len(calls), Y[i]

    return Reads(read)


def _shuffling() -> Dataset:
    order, generator = list(range(N)), random.Random(0)

    def read(i: int) -> tuple[Tensor, Tensor]:
        if i == 0:
            generator.shuffle(order)
        return X[order[i]], Y[order[i]]

    return Reads(read)


@pytest.mark.parametrize("make", [_private, _counting, _shuffling])
def test_examples_that_differ_when_read_again_are_refused(make):
    for name in ("train", "val"):
        data = {"train": TensorDataset(X, Y), "val": TensorDataset(X, Y), name: make()}
        with pytest.raises(ValueError, match=rf"same when read again, but {name}\["):
            problem_of(**data)


# ------------------------------------------------------------------ what stands for it


class Scaled(TensorDataset):
    def __getitem__(self, i: Any) -> Any:
        x, y = super().__getitem__(i)
        return 2 * x, y


class ScaledPart(Subset):
    def __getitem__(self, i: Any) -> Any:
        x, y = super().__getitem__(i)
        return 2 * x, y

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[i] for i in indices]


def pairs(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x, y, strict=True))


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        return iter(pairs(X, Y))


PART = [7, 3, 1, 0, 9, 5]
WHOLE = TensorDataset(X, Y)
TAKEN = {
    "a tuple of tensors": ((X, Y), (X, Y)),
    "a list of tensors": ([X, Y], (X, Y)),
    "a tuple of arrays": ((X.numpy(), Y.numpy()), (X, Y)),
    "a list of tuples": (pairs(X, Y), (X, Y)),
    "examples of arrays": (Reads(lambda i: (X[i].numpy(), Y[i].numpy())), (X, Y)),
    "a subset of a subset": (
        Subset(Subset(WHOLE, [*PART, 2, 4]), range(6)),
        (X[PART], Y[PART]),
    ),
    "a subset by an array": (Subset(WHOLE, np.array(PART)), (X[PART], Y[PART])),
    "a subset of other data": (Subset(pairs(X, Y), PART), (X[PART], Y[PART])),
    "data after data": (
        ConcatDataset([TensorDataset(X[:5], Y[:5]), TensorDataset(X[5:], Y[5:])]),
        (X, Y),
    ),
    "a subclass that reads otherwise": (Scaled(X, Y), (2 * X, Y)),
    "a part that reads otherwise": (
        ScaledPart(WHOLE, PART),
        (2 * X[PART], Y[PART]),
    ),
    "a part of a subclass": (Subset(Scaled(X, Y), PART), (2 * X[PART], Y[PART])),
    "tensors with a graph": ((X.clone().requires_grad_() * 1.0, Y), (X, Y)),
    "a stream": (Stream(), (X, Y)),
    "a dict by index": (dict(enumerate(pairs(X, Y))), (X, Y)),
}


@pytest.mark.parametrize("name", TAKEN)
def test_is_the_same_problem_as_of_its_tensors(name):
    data, tensors = TAKEN[name]
    problem, plain = problem_of(data), problem_of(TensorDataset(*tensors))
    assert same_batches(problem, plain)
    assert plain_run(problem, H, 3)[1] == plain_run(plain, H, 3)[1]
    assert not any(x.requires_grad for x in tree_leaves(problem.batch(0)))


def test_pythons_numbers_have_the_weights_precision():
    numbers = [([float(a) for a in x], float(y)) for x, y in pairs(X, Y)]
    data = Reads(lambda i: (torch.tensor(numbers[i][0]), numbers[i][1]))
    loss = lambda z, y: F.mse_loss(z.squeeze(1), y)  # noqa: E731
    net = nn.Linear(3, 1).float()
    single = Reads(lambda i: (X[i].float(), numbers[i][1]))
    targets = problem_of(single, module=net, loss=loss).batch(0).data.targets
    assert targets.dtype == torch.float32
    assert problem_of(data, loss=loss).batch(0).data.targets.dtype == torch.float64


@pytest.mark.parametrize(
    "data",
    [(X, Y), (X.numpy(), Y.numpy()), TensorDataset(X, Y), Subset(WHOLE, range(N))],
    ids=["tensors", "arrays", "data set", "subset"],
)
def test_data_in_memory_are_not_copied(data):
    problem = problem_of(data, size=None)
    if isinstance(data, Subset):
        tensors, _ = gathered(data)
        assert tensors[0] is X
    else:
        assert problem.batch(0).data.inputs[0].data_ptr() == X.data_ptr()


# ---------------------------------------------------------------------- what is refused


class Broken(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        raise OSError("no such tape")
        yield


class Unsized(Dataset):
    def __getitem__(self, i: int) -> Any:
        return X[i], Y[i]


class Picture:
    """Like an image of a library that torch does not know."""


def _strange(place: int, value: float) -> tuple[Tensor, Tensor]:
    x = X.clone()
    x[place, 1] = value
    return x, Y


REFUSED = {
    "a DataLoader and batch_size": (
        lambda: DataLoader(WHOLE, batch_size=4),
        r"batches of the DataLoader train, but got batch_size=4, too",
    ),
    "a stream that fails": (
        Broken,
        r"cannot read the stream train: OSError: no such tape",
    ),
    "a generator": (lambda: iter(pairs(X, Y)), "by index, but got train of type"),
    "no length": (Unsized, "a length and examples by index, but got train of type Uns"),
    "a number": (lambda: 3, "by index, but got train of type int"),
    "one tensor": (lambda: X, r"targets, but got train of shape \(12, 3\) alone"),
    "a tuple of one": (lambda: (X,), r"as many rows, but got train with shapes"),
    "unequal rows": (
        lambda: (X, Y[:5]),
        r"as many rows, but got train with shapes \[\(12, 3\), \(5, 1\)\]",
    ),
    "columns": (
        lambda: {"x": X, "y": Y},
        r"by index, but got train with the keys 'x', 'y': give train=\(inputs, targ",
    ),
    "examples with keys": (
        lambda: [{"x": x, "y": y} for x, y in pairs(X, Y)],
        r"Linear cannot be called with the first batch, inputs of \(4, 3\)",
    ),
    "no target": (lambda: [(x, None) for x in X], "of train contains a NoneType"),
    "pictures": (
        lambda: [(Picture(), y) for y in Y],
        "of train contains a Picture: turn it into a tensor in __getitem__",
    ),
    "words": (lambda: [(x, "yes") for x in X], "of train contains a str"),
    "ragged": (
        lambda: [(X[i, : 1 + i % 3], Y[i]) for i in range(N)],
        r"of one shape, but those of train have \(1,\) and \([23],\): pad them",
    ),
    "ragged targets": (
        lambda: [(X[i], torch.zeros(1 + i % 2)) for i in range(N)],
        r"of one shape, but those of train have \(1,\) and \(2,\)",
    ),
    "examples from 1": (
        lambda: Reads({i + 1: (X[i], Y[i]) for i in range(N)}.__getitem__),
        r"by index from 0 to its length, but train\[0\] fails: KeyError: 0",
    ),
    "not a number": (
        lambda: _strange(7, float("nan")),
        r"finite numbers, but train\[7\] contains nan: leave",
    ),
    "infinity in a part": (
        lambda: Subset(TensorDataset(*_strange(7, float("inf"))), [1, 7, 2, 3, 4]),
        r"finite numbers, but train\[1\] contains inf",
    ),
    "another precision": (
        lambda: (X.float(), Y.float()),
        r"Linear cannot be called with the first batch, inputs of \(4, 3\) float32: .*"
        r"same dtype, but got Float and Double",
    ),
    "integers": (
        lambda: (X.long(), Y),
        r"cannot be called with the first batch, inputs of \(4, 3\) int64",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_in_one_line(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        problem_of(make(), val=TensorDataset(X, Y))
    assert "\n" not in str(caught.value)


def test_validation_data_are_looked_at_too():
    with pytest.raises(ValueError, match=r"finite numbers, but val\[3\] contains nan"):
        problem_of(WHOLE, val=_strange(3, float("nan")))
    with pytest.raises(
        ValueError, match="module fails for examples of val: RuntimeErr"
    ):
        problem_of(WHOLE, val=(X[:, :2], Y))


def test_a_module_that_replaces_what_is_missing_may_have_it():
    class Filled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.nan_to_num(0.0))

    missing = _strange(7, float("nan"))
    net = Filled(3, 1)
    _, value = plain_run(problem_of(missing, module=net), H, 3)
    filled = problem_of(_strange(7, 0.0), module=net)
    assert value == plain_run(filled, H, 3)[1]
