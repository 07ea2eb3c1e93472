"""Data loaders: their batches, by a seed, and whatever reads them the same numbers."""

import random
from collections import Counter, UserDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from raymeta import Positive, Space, module_problem, optim, optimize
from raymeta._tree import tree_leaves
from raymeta.hypergrad import Checkpointed, Forward, Reverse, Reversible, hypergradient
from raymeta.modules.loaders import say_left_out
from raymeta.outer.replay import replay
from raymeta.outer.report import plain_run
from raymeta.testing.truth import largest_relative_error, run_differences

pytestmark = pytest.mark.usefixtures("float64")
N, STEPS = 11, 5
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X.sin().sum(1, keepdim=True)
PAIRS = list(zip(X, Y, strict=True))
WHOLE = TensorDataset(X, Y)
H = {"lr": torch.tensor(0.1, dtype=torch.float64)}


def linear() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Linear(3, 1)


def problem_of(train, val=WHOLE, module=None, **others):
    arguments = {"loss": F.mse_loss, "seed": 5, **others}
    return module_problem(
        module or linear(),
        train=train,
        val=val,
        optimizer=lambda h: optim.sgd(h["lr"], momentum=0.5),
        **arguments,
    )


def indices(problem, steps):
    return [problem.batch(t).data.index.tolist() for t in range(steps)]


def same_batches(one, other, steps=9):
    for t in range(steps):
        leaves = (tree_leaves(p.batch(t)) for p in (one, other))
        for a, b in zip(*leaves, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


class Transformed(Dataset):
    """Random crops of a kind: from all three global generators."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int):
        scale = random.uniform(0.5, 1.5) + float(np.random.normal())  # noqa: NPY002
        return X[i] * scale + 0.3 * torch.randn(3), Y[i]


# ------------------------------------------------------------------------------ orders


def test_a_loader_in_order_is_plain_slices():
    problem = problem_of(DataLoader(WHOLE, batch_size=4))
    epoch = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert indices(problem, 6) == 2 * epoch
    assert torch.equal(problem.batch(2).data.inputs[0], X[8:])
    assert problem.outer_cost == N / (N / 3)


def test_drop_last_leaves_out_what_is_said_once(caplog):
    say_left_out.cache_clear()
    for _ in range(2):
        problem = problem_of(DataLoader(WHOLE, batch_size=4, drop_last=True))
    assert list(map(len, indices(problem, 4))) == [4] * 4
    (line,) = caplog.messages
    assert line == "an epoch of train leaves out 3 of 11 examples"


def weighted():
    weights = [0.0, *[1.0] * (N - 1)]
    return DataLoader(WHOLE, 4, sampler=WeightedRandomSampler(weights, 20))


def generated(seed):
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(WHOLE, 3, shuffle=True, generator=generator)


ORDERS = {
    "shuffle": lambda: DataLoader(WHOLE, batch_size=3, shuffle=True),
    "a generator": lambda: generated(3),
    "a subset": lambda: DataLoader(WHOLE, 3, sampler=SubsetRandomSampler([1, 5, 7, 9])),
    "weights": weighted,
    "a batch sampler": lambda: DataLoader(
        WHOLE, batch_sampler=BatchSampler(RandomSampler(WHOLE), 5, drop_last=False)
    ),
    "a rank's": lambda: DataLoader(
        WHOLE, 3, sampler=DistributedSampler(WHOLE, num_replicas=2, rank=1)
    ),
}


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_is_a_function_of_seed_and_epoch(name):
    problem, torch_state = problem_of(ORDERS[name]()), torch.get_rng_state()
    per_epoch = len(ORDERS[name]())
    seen = indices(problem, 3 * per_epoch)
    assert torch.equal(torch.get_rng_state(), torch_state)
    epochs = [seen[i : i + per_epoch] for i in range(0, len(seen), per_epoch)]
    assert epochs[0] != epochs[1]
    again = problem_of(ORDERS[name]())
    assert again.batch(2 * per_epoch).data.index.tolist() == epochs[2][0]
    assert indices(again, 3 * per_epoch) == seen
    flat = [Counter(i for batch in epoch for i in batch) for epoch in epochs]
    if name == "weights":
        assert all(0 not in epoch for epoch in flat)
        assert all(sum(epoch.values()) == 20 for epoch in flat)
    elif name == "a subset":
        assert all(epoch == Counter([1, 5, 7, 9]) for epoch in flat)
    elif name != "a rank's":
        assert all(epoch == Counter(range(N)) for epoch in flat)
    if name != "a rank's":  # which has a seed of its own
        assert indices(problem_of(ORDERS[name](), seed=6), per_epoch) != epochs[0]


def test_a_generator_of_ones_own_is_left_as_it_was():
    loader = generated(3)
    state = loader.generator.get_state()
    one, other = problem_of(loader), problem_of(generated(8))
    assert torch.equal(loader.generator.get_state(), state)
    same_batches(one, other)


class Stream(IterableDataset):
    def __iter__(self):
        return ((x + 0.1 * torch.randn(3), y) for x, y in PAIRS)


def test_a_stream_is_read_once():
    one, other = (problem_of(DataLoader(Stream(), batch_size=4)) for _ in range(2))
    same_batches(one, other)
    assert indices(one, 3) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert torch.equal(one.batch(0).data.inputs[0], one.batch(3).data.inputs[0])
    assert not torch.equal(one.batch(0).data.inputs[0], X[:4])


def test_a_loader_of_validation_data_says_which_and_how_many_at_a_time():
    chosen = [1, 5, 7, 9, 2]
    loader = DataLoader(WHOLE, 2, sampler=SubsetRandomSampler(chosen))
    problem = problem_of(WHOLE, loader)
    assert problem.outer_loss.batch_size == 2
    assert problem.validation_size == 5
    plain = problem_of(WHOLE, (X[chosen], Y[chosen]))
    state = plain.init(H)
    exact = float(plain.outer_loss(state, H))
    assert float(problem.outer_loss(state, H)) == pytest.approx(exact, rel=1e-12)


# --------------------------------------------------------- what is drawn, and who reads


def masking(items):
    """A collate function that draws, as those that mask words do."""
    x, y = torch.utils.data.default_collate(items)
    return x * (torch.rand_like(x) > 0.2), y


def loaders(workers: int):
    options = {"num_workers": workers, "collate_fn": masking}
    return (
        DataLoader(Transformed(), 4, shuffle=True, **options),
        DataLoader(WHOLE, 4, num_workers=workers),
    )


def test_estimators_agree_on_what_is_drawn_with_and_without_workers():
    problem, ahead = (problem_of(*loaders(workers)) for workers in (0, 2))
    truth = run_differences(problem, H, STEPS)
    exact = None
    for estimator in (
        Reverse(STEPS),
        Checkpointed(STEPS),
        Checkpointed(STEPS, states=2),
        Reversible(STEPS),
        Forward(STEPS),
    ):
        found = hypergradient(problem, H, estimator)
        assert largest_relative_error(found.grads, truth) < 1e-6
        again = hypergradient(ahead, H, estimator)
        assert torch.equal(found.outer_loss, again.outer_loss)
        assert torch.equal(found.grads["lr"], again.grads["lr"])
        if isinstance(estimator, Reverse | Checkpointed):
            exact = found if exact is None else exact
            assert torch.equal(found.outer_loss, exact.outer_loss)
            torch.testing.assert_close(found.grads, exact.grads, rtol=1e-12, atol=0)
    same_batches(problem, ahead)
    for t in (7, 2, 3, 4, 8, 0):  # in any order
        leaves = (tree_leaves(p.batch(t)) for p in (problem, ahead))
        assert all(torch.equal(a, b) for a, b in zip(*leaves, strict=True))


def test_a_run_is_replayed():
    class Task:
        name, horizon, budget = "drawn", 6, 60.0
        space = Space(lr=Positive(0.1, low=1e-3, high=1.0))

        def sample(self, seed):
            return problem_of(*loaders(0))

    result = optimize(Task(), Reverse(6), progress=False)
    state = replay(Task().sample(0), Task.space, result.schedule)
    for name, w in result.state.params.items():
        assert torch.equal(w, state.params[name])


class Counting(Dataset):
    """Fails where it is read by a process."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int):
        if torch.utils.data.get_worker_info() is not None and i == 9:
            raise KeyError("nine")
        return PAIRS[i]


def test_what_fails_in_a_worker_is_told_in_one_line():
    problem = problem_of(DataLoader(Counting(), 4, num_workers=1))
    with pytest.raises(ValueError, match=r"train\[9\] fails: KeyError: 'nine'") as told:
        plain_run(problem, H, 3)
    assert "\n" not in str(told.value)


# ------------------------------------------------------------------------- dictionaries


class ByName(nn.Module):
    """As models of language: takes what it knows by name, and gives its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = linear()

    def forward(self, x: Tensor, mask: Tensor | None = None, labels=None):
        z = self.linear(x * mask if mask is not None else x)
        return {"logits": z, "loss": F.mse_loss(z, labels)}


class OneDictionary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = linear()

    def forward(self, batch):
        return {"logits": self.linear(batch["inner"]["x"])}


MASK = torch.ones(N, 3, dtype=torch.float64)
ROWS = [
    {"x": x, "mask": m, "labels": y, "id": i}
    for i, (x, m, y) in enumerate(zip(X, MASK, Y, strict=True))
]
NESTED = [UserDict({"inner": {"x": x}, "deep": [{"labels": y}]}) for x, y in PAIRS]
DICTIONARIES = {
    "by name": (ROWS, ByName, lambda z, b: z["loss"]),
    "a loss of the batch": (
        ROWS,
        ByName,
        lambda z, b: F.mse_loss(z["logits"], b["labels"]),
    ),
    "nested": (
        NESTED,
        OneDictionary,
        lambda z, b: F.mse_loss(z["logits"], b["deep"][0]["labels"]),
    ),
}


@pytest.mark.parametrize("name", DICTIONARIES)
def test_dictionaries_are_the_same_problem(name):
    rows, module, loss = DICTIONARIES[name]
    problem = problem_of(DataLoader(rows, 4), DataLoader(rows, 5), module(), loss=loss)
    plain = problem_of(DataLoader(WHOLE, 4))
    for estimator in (Reverse(STEPS), Forward(STEPS)):
        found, exact = (hypergradient(p, H, estimator) for p in (problem, plain))
        torch.testing.assert_close(found.outer_loss, exact.outer_loss)
        torch.testing.assert_close(found.grads, exact.grads, rtol=1e-11, atol=0)


LENGTHS = [2 + i % 3 for i in range(N)]


def padded(items):
    x, y = zip(*items, strict=True)
    lengths = torch.tensor([len(each) for each in x])
    return {
        "x": nn.utils.rnn.pad_sequence(list(x), batch_first=True),
        "lengths": lengths,
        "y": torch.stack(y),
    }


class MeanOfWords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = linear()

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.linear(x.sum(1) / lengths[:, None])


@pytest.mark.parametrize("how", ["argument", "loader"])
def test_variable_lengths_by_a_collate_function(how):
    words = [
        (X[i] * torch.linspace(0.5, 1.5, n)[:, None], Y[i])
        for i, n in enumerate(LENGTHS)
    ]
    loss = lambda z, batch: F.mse_loss(z, batch["y"])  # noqa: E731
    if how == "argument":
        val, more = words, {"collate": padded, "val_batch_size": 4}
        problem = problem_of(words, val, MeanOfWords(), loss=loss, batch_size=4, **more)
        plain = problem_of(WHOLE, batch_size=4)
    else:
        train, val = (DataLoader(words, 4, collate_fn=padded) for _ in range(2))
        problem = problem_of(train, val, MeanOfWords(), loss=loss)
        plain = problem_of(DataLoader(WHOLE, 4))
    for estimator in (Reverse(STEPS), Checkpointed(STEPS)):
        found, exact = (hypergradient(p, H, estimator) for p in (problem, plain))
        torch.testing.assert_close(found.grads, exact.grads, rtol=1e-10, atol=0)


# ---------------------------------------------------------------------- what is refused


class Private(Sampler):
    """Draws from a generator that nobody else can seed."""

    def __init__(self) -> None:
        self.draw = np.random.default_rng(0).permutation

    def __iter__(self):
        return iter(self.draw(N).tolist())

    def __len__(self) -> int:
        return N


class Endless(Sampler):
    def __iter__(self):
        while True:
            yield 0


def changing(items):
    x, y = torch.utils.data.default_collate(items)
    return (x, y) if len(items) == 4 else (x, x, y)


class Lying(Dataset):
    def __len__(self) -> int:
        return N + 3

    def __getitem__(self, i: int):
        return PAIRS[i]


REFUSED = {
    "nothing in it": (
        lambda: DataLoader(WHOLE, batch_size=20, drop_last=True),
        "the DataLoader train has none of its 11 examples: use a smaller batch_size",
    ),
    "an empty stream": (
        lambda: DataLoader([], 2),
        "needs a non-empty data set, but tr",
    ),
    "no batches": (
        lambda: DataLoader(WHOLE, batch_size=None),
        "train has batch_size=None: give batch_size=",
    ),
    "a private generator": (
        lambda: DataLoader(WHOLE, 4, sampler=Private()),
        "but Private of train gives another one when epoch 0 is drawn again",
    ),
    "no end": (
        lambda: DataLoader(WHOLE, 4, sampler=Endless()),
        "epochs with an end, but Endless of train goes on after 100 times the 11",
    ),
    "an empty batch": (
        lambda: DataLoader(WHOLE, batch_sampler=[[0, 1], []]),
        "list of train gives none in batch 1 of an epoch",
    ),
    "examples of other data": (
        lambda: DataLoader(WHOLE, batch_sampler=[[0, 11]]),
        "by index below 11, but list of train gives 11",
    ),
    "no tensors": (
        lambda: DataLoader(WHOLE, 4, collate_fn=lambda items: ("x", "y")),
        "the collate function of train returned a str among them",
    ),
    "nothing returned": (
        lambda: DataLoader(WHOLE, 4, collate_fn=lambda items: None),
        "the collate function of train returned a NoneType",
    ),
    "one tensor returned": (
        lambda: DataLoader(WHOLE, 4, collate_fn=lambda items: items[0][0]),
        r"or dictionaries, but got tensor\(.*from train: .* a collate function that",
    ),
    "a collate function that fails": (
        lambda: DataLoader(WHOLE, 4, collate_fn=lambda items: items[7]),
        "collate function of train fails for 1 examples: IndexError",
    ),
    "a length that lies": (
        lambda: DataLoader(Lying(), 4),
        r"to its length, but train\[13\] fails: IndexError",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_in_one_line(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        problem_of(make())
    assert "\n" not in str(caught.value)


def test_batches_of_another_structure_are_refused():
    problem = problem_of(DataLoader(WHOLE, 4, collate_fn=changing), module=linear())
    with pytest.raises(
        ValueError, match=r"one structure, but that of train with exampl"
    ):
        plain_run(problem, H, 3)


def test_collate_and_a_loader_are_refused():
    with pytest.raises(ValueError, match="train is a DataLoader: give it collate_fn="):
        problem_of(DataLoader(WHOLE, 4), collate=padded)
