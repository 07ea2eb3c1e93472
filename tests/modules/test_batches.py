"""Which examples a step sees, and what is refused."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from raymeta.hypergrad import Reverse, hypergradient
from raymeta.outer.report import plain_run
from raymeta.problem import BilevelProblem
from tests.support.module_cases import SIZE, VAL, data, hparams_of, mlp, problem_of

pytestmark = pytest.mark.usefixtures("float64")


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
    x = torch.arange(n).double().reshape(n, 1)
    examples = TensorDataset(x, torch.zeros(n, 1))
    others = {"train": examples, "val": examples, "loss": F.mse_loss, **others}
    return problem_of(nn.Linear(1, 1), **others)


def indices(problem: BilevelProblem, t: int) -> list[int]:
    batch = problem.batch(t)
    batch = problem.batch(t)
    assert batch.index.shape == ()
    assert batch.index.dtype == torch.int64
    assert int(batch.index) == t
    assert [int(x) for x in batch.data.inputs[0]] == batch.data.index.tolist()
    return batch.data.index.tolist()


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


@pytest.mark.parametrize("size", [None, 9])
def test_a_batch_of_all_of_the_data_is_the_data_as_it_stands(size):
    problem = numbered(9, batch_size=size)
    assert indices(problem, 0) == indices(problem, 5) == list(range(9))
    assert problem.batch(0).data is problem.batch(5).data


def test_all_of_a_map_style_data_set_is_read_once():
    train = MapStyle(data())
    problem = problem_of(mlp(), train=train, batch_size=None)
    plain_run(problem, hparams_of(), 3)
    assert train.asked[1] == 1


def test_targets_keep_their_examples():
    problem = problem_of(mlp())
    x, y = data().tensors
    label = {tuple(row.tolist()): int(target) for row, target in zip(x, y, strict=True)}
    for t in (0, 3, 8):
        (inputs,), targets, _ = problem.batch(t).data
        assert [label[tuple(row.tolist())] for row in inputs] == targets.tolist()


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
