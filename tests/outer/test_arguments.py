"""`optimize` takes names and objects; what it cannot take is refused in one line."""

import math
from functools import partial

import numpy as np
import pytest
import torch

import raymeta
from raymeta import optimize
from raymeta.hypergrad import Forward, Reverse, ShortTerm
from raymeta.hypergrad.registry import ESTIMATORS
from raymeta.optim import sgd
from raymeta.outer.arguments import estimator_of
from raymeta.tasks import Quadratic
from raymeta.testing.kill import untimed
from tests.support.small_tasks import OneStep

pytestmark = pytest.mark.usefixtures("float64")
SGD = torch.optim.SGD([torch.zeros(3, requires_grad=True)], lr=0.1)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_an_estimator_by_name_is_that_of_the_command_line(name):
    assert estimator_of(name, 40) == ESTIMATORS[name](40)


def test_a_task_by_name_is_that_of_a_comparison():
    named = optimize("quadratic", "reverse", budget=300)
    given = optimize(Quadratic(), Reverse(20), budget=300)
    assert untimed(named.reports) == untimed(given.reports)
    assert named.task == "quadratic"


def test_progress_is_printed_now_and_then_or_not(capsys, monkeypatch):
    monkeypatch.setattr("raymeta.runtime.progress.LOG_S", 0.0)
    monkeypatch.setattr("raymeta.runtime.progress.REDRAW_S", 1e6)
    found = optimize(OneStep(), "reverse", budget=30)
    lines = capsys.readouterr().out.splitlines()[2:]  # after the first look
    assert len(lines) == len(found.reports)
    assert all("% of the budget, outer loss" in line for line in lines)
    assert lines[-1].endswith(f"best of a full run {found.outer_loss:.5g}")
    for quiet in (False, None):
        optimize(OneStep(), "reverse", budget=30, progress=quiet)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("budget", [np.float32(90.0), np.int64(90), 90])
def test_a_number_is_a_budget_whatever_made_it(budget):
    found, same = (optimize(OneStep(), "reverse", budget=b) for b in (budget, 90.0))
    assert untimed(found.reports) == untimed(same.reports)


REFUSED = {
    "an unknown estimator": (
        {"estimator": "revers"},
        "unknown estimator 'revers': did you mean 'reverse'",
    ),
    "an unknown task": ({"task": "digts"}, "unknown task 'digts': did you mean"),
    "a class of a task": ({"task": Quadratic}, r"got the class Quadratic: pass Quad"),
    "a class of an estimator": (
        {"estimator": Reverse},
        r"an estimator .* is an object such as Reverse\(20\), but got the class "
        r"Reverse: pass Reverse\(20\)",
    ),
    "an optimizer of torch": (
        {"estimator": SGD},
        r"an object such as Reverse\(20\), but got the optimizer SGD: that of the "
        "weights belongs to the problem",
    ),
    "a class of torch.optim": (
        {"estimator": torch.optim.AdamW},
        r"but got the optimizer AdamW: that of the weights belongs to the problem",
    ),
    "a rule": ({"estimator": sgd(0.1)}, "but got the optimizer Optimizer: that of"),
    "nothing": ({"estimator": None}, r"but None has no steps: pass an estimator"),
    "a partial": ({"estimator": partial(Forward, 20)}, r"has no steps: pass"),
    "a text for a budget": ({"budget": "300"}, "budget must be a number, but got '300"),
    "truth for a budget": ({"budget": True}, "budget must be a number, but got True"),
    "a negative budget": ({"budget": -5}, "finite budget of at least 61 .* but got -5"),
    "no end": ({"budget": math.inf}, "needs a finite budget of at least 61"),
    "a seed that is no integer": ({"seed": 0.5}, r"seed must be an integer .*got 0.5"),
    "no seed": ({"seed": None}, "seed must be an integer from 0 to .* but got None"),
    "a negative seed": ({"seed": -1}, "seed must be an integer from 0 to .* got -1"),
    "a text for a length": ({"hyper_lr": "1"}, "hyper_lr must be a number, but got '1"),
    "an endless length": ({"hyper_lr": math.inf}, "needs a finite hyper_lr, but got i"),
    "no length": ({"hyper_lr": 0}, "needs hyper_lr > 0, but got 0: leave it out"),
    "a progress bar": ({"progress": "tqdm"}, "progress must be True, False, or what"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_in_one_line_before_anything_is_sampled(arguments, message):
    class Unsampled(Quadratic):
        def sample(self, seed):
            assert "budget" in arguments, "only what a run costs needs a problem"
            return super().sample(seed)

    given = {"task": Unsampled(), "estimator": "reverse"} | arguments
    with pytest.raises(ValueError, match=message) as caught:
        optimize(given.pop("task"), given.pop("estimator"), **given)
    assert "\n" not in str(caught.value)


def test_an_estimator_of_a_users_own_is_taken():
    class Mine(ShortTerm):
        pass

    assert optimize(Quadratic(), Mine(4), budget=200).method == "Mine"


def test_a_hypergradient_wants_an_estimator_as_well():
    task = Quadratic()
    problem, hparams = task.sample(0), task.space.initial()
    for given, message in (
        (Reverse, r"got the class Reverse: pass Reverse\(100\)"),
        ("reverse", "got 'reverse' without: give steps="),
    ):
        with pytest.raises(ValueError, match=message):
            raymeta.hypergradient(problem, hparams, given)


@pytest.mark.parametrize(
    "line",
    [
        "def mine(horizon): return Reverse(horizon)",
        "mine = Reverse",
        "mine = Reverse(9)",
    ],
)
def test_an_estimator_may_be_in_a_file(tmp_path, line):
    path = tmp_path / "own.py"
    path.write_text(f"from raymeta.hypergrad import Reverse\n{line}\n")
    assert estimator_of(f"{path}:mine", 9) == Reverse(9)
    with pytest.raises(ValueError, match=r"estimator in .*own.py:.*'yours'"):
        estimator_of(f"{path}:yours", 9)


def test_what_is_no_estimator_in_a_file_is_refused(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("mine = 3\ndef none(): pass\n")
    with pytest.raises(ValueError, match="3 has no steps: pass an estimator"):
        estimator_of(f"{path}:mine", 9)
    with pytest.raises(ValueError, match=r"none is no estimator: .*horizon"):
        estimator_of(f"{path}:none", 9)
