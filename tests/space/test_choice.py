"""Options of any type: told apart, found again, and called by a name."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from raymeta.optim import load_schedule
from raymeta.space import Choice, Positive, Real, Space, Unit


def relu(x):
    return x.relu()


def test_none_may_be_the_start():
    assert Choice((0.1, None), initial=None).initial is None
    assert Choice((None, 0.1)).initial is None
    assert Choice((0.1, None)).initial == 0.1
    with pytest.raises(ValueError, match=r"among its options \[0.1\], but got None"):
        Choice((0.1,), initial=None)
    assert repr(Choice((1, 2))) == "Choice(options=(1, 2), initial=1)"


@pytest.mark.parametrize(
    "options",
    [
        (True, 2, 3.0, "1", None),
        (False, 2, -0.5),
        (math.nan, 1.0),
        ([1, 2], (1, 2), [1], {"a": [1]}),
        (np.int64(3), np.float32(0.5), np.array([1, 2])),
        (nn.Tanh, nn.ReLU, relu, torch.tanh),
        ("a", "b"),
        (torch.float32, torch.float64),
        ({"lr": torch.ones(2)}, {"lr": torch.zeros(2)}),
        ("only",),
    ],
    ids=[
        "logical",
        "numbers",
        "nan",
        "containers",
        "numpy",
        "callables",
        "words",
        "dtypes",
        "tensors",
        "one",
    ],
)
def test_every_option_is_found_by_itself_and_by_a_copy(options):
    choice = Choice(options)
    space = Space(c=choice, x=Real(0.0))
    copies = pickle.loads(pickle.dumps(options))
    for number, (option, copy) in enumerate(zip(options, copies, strict=True)):
        assert choice.index(option) == choice.index(copy) == number
        assert Choice(options, initial=option).initial is option
        point = space.parse({"c": copy, "x": 0.0})
        assert json.loads(json.dumps(point)) == pytest.approx(point, nan_ok=True)
        assert space.hparams(json.loads(json.dumps(point)))["c"] is option
        assert choice.index(choice.labels[number]) == number
    assert len(set(choice.labels)) == len(options)


def test_an_equal_value_of_another_type_is_an_option():
    choice = Choice((64, 32.0, (1, 2)))
    assert choice.index(64.0) == choice.index(np.int64(64)) == 0
    assert choice.index(32) == 1
    assert choice.index([1, 2]) == 2  # as JSON has it


def test_functions_and_modules_that_are_made_anew_are_found_by_their_names():
    def made():
        def square(x):
            return x * x

        return Choice((nn.Tanh(), nn.ReLU(), square, nn.Sequential(nn.Linear(2, 3))))

    one, other = made(), made()
    assert [one.index(option) for option in other.options] == [0, 1, 2, 3]
    assert one.labels == other.labels
    assert "0x" not in "".join(one.labels)
    assert all("\n" not in label for label in one.labels)
    twins = Choice((lambda x: x, lambda x: 2 * x))
    assert len(set(twins.labels)) == 2
    with pytest.raises(ValueError, match="a Choice needs one of its options"):
        twins.index(pickle)  # neither of them
    alike = Choice((nn.Linear(2, 2), nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="a Choice needs one of its options"):
        alike.index(nn.Linear(2, 2))  # which of them?


REFUSED = {
    "text": (lambda: Choice("sgd"), "needs a list or tuple of options, but got 'sgd'"),
    "twice": (lambda: Choice((1, 2, 1)), "needs options that differ, but got 1 twice"),
    "equal": (
        lambda: Choice((1, 1.0)),
        r"but got 1 and 1\.0, which are equal: leave one",
    ),
    "equal to True": (lambda: Choice((True, "x", 1)), "but got True and 1, which"),
    "equal inside": (lambda: Choice(([1], [1.0])), r"got \[1\] and \[1\.0\], which"),
    "nan twice": (lambda: Choice((math.nan, float("nan"))), "but got nan twice"),
    "arrays twice": (lambda: Choice((np.ones(2), np.ones(2))), "twice"),
    "a tensor": (
        lambda: Choice((torch.ones(2), torch.zeros(2))),
        r"options that are no tensors, .* but got tensor\(\[1., 1.\]\): give their",
    ),
    "a set": (lambda: Choice({1, 2}), r"needs a list or tuple .* but got \{1, 2\}"),
    "an array": (lambda: Choice(np.arange(3)), "needs a list or tuple of options"),
    "one value": (lambda: Choice(3), r"list or tuple of options, but got 3: write"),
    "a value that is no option": (
        lambda: Space(c=Choice((1, 2))).check({"c": 3}),
        r"a Choice needs one of its options \[1, 2\], but got 3",
    ),
    # ---------------------------------------------------------------------- domains
    "a word to start from": (
        lambda: Positive("0.1"),
        "Positive needs an initial value of real numbers, but got initial='0.1': give",
    ),
    "nothing to start from": (lambda: Real(None), "real numbers, but got initial=None"),
    "a complex start": (lambda: Real(1j), "real numbers, but got initial=1j"),
    "a complex tensor": (lambda: Real(torch.ones(1) * 1j), "needs an initial value of"),
    "a ragged start": (lambda: Real([[1.0], [1.0, 2.0]], shape=(2, 2)), "of real numb"),
    "a word as a bound": (
        lambda: Unit(0.5, low="0"),
        "Unit needs a number as low, but got low='0': the bound is the same for all",
    ),
    "a bound for each": (
        lambda: Positive(1.0, low=[0.1, 0.2], high=2.0, shape=(2,)),
        r"Positive needs a number as low, but got low=\[0.1, 0.2\]",
    ),
    "a negative size": (lambda: Real(0.0, shape=(-1,)), r"but got shape=\(-1,\): give"),
    "no elements": (lambda: Real(0.0, shape=(0,)), "shape of positive whole numbers"),
    "half a size": (lambda: Real(0.0, shape=(1.5,)), "shape of positive whole numbers"),
    "a long start on one line": (
        lambda: Unit(torch.full((40, 40), 2.0), shape=(40, 40)),
        r"initial=tensor\(.* …, low=0.0",
    ),
    # ------------------------------------------------------------------------ spaces
    "a list": (lambda: Space(w=[1, 2]), r"but got \[1, 2\]: write w=Choice\(\[1, 2\]"),
    "a flag": (lambda: Space(n=True), r"but got True: write n=Choice\(\(True, …\)\)"),
    "a number": (lambda: Space(lr=0.1), r"but got 0.1: write lr=Positive\(0.1\)"),
    "a class": (lambda: Space(lr=Unit), r"give it a start, lr=Unit\(…\)"),
    "no name": (lambda: Space(**{"": Unit(0.5)}), "name without brackets, .* got ''"),
    "brackets": (lambda: Space(**{"x[0]": Unit(0.5)}), r"but got 'x\[0\]'"),
    "two lines": (lambda: Space(**{"x\ny": Unit(0.5)}), r"but got 'x\\ny'"),
    "whole numbers": (
        lambda: Space(x=Real(0.0)).check({"x": torch.tensor(1)}),
        "'x' needs a floating-point tensor, but got one of torch.int64",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_on_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_numbers_of_other_libraries_are_numbers():
    domain = Real(np.float32(0.5), low=np.float64(-1), high=torch.tensor(2), shape=3)
    assert (domain.low, domain.high, domain.shape) == (-1.0, 2.0, (3,))
    assert domain.start(torch.float64).tolist() == [0.5] * 3
    assert Real([0.1, 0.2], shape=[2]).start(torch.float64).tolist() == [0.1, 0.2]
    same = Unit(0.5)
    assert Space(a=same, b=same).point(Space(a=same, b=same).initial()) == {
        "a": 0.5,
        "b": 0.5,
    }


def test_an_exported_schedule_names_what_json_does_not_have(tmp_path):
    from raymeta import optimize
    from raymeta.hypergrad import Reverse
    from tests.support.either import Either

    class Functions(Either):
        @property
        def space(self):
            whole = super().space
            return Space(**{**whole, "extra": Choice((relu, (1, 2), None))})

    result = optimize(Functions(name="f"), Reverse(9))
    result.export(tmp_path / "schedule.json")
    (_, flat) = load_schedule(tmp_path / "schedule.json")[0]
    assert flat["extra"] == "relu"
    assert "0x" not in str(result.frame["hp/extra"].iloc[0])
    result.frame.to_parquet(tmp_path / "frame.parquet")
