"""Optimizations that go on by their name."""

import math
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch

from raymeta import optimize
from raymeta._tree import tree_leaves
from raymeta.search.worker import evaluation_log
from raymeta.tasks import Quadratic
from raymeta.testing.kill import Computed, Killed
from tests.support.small_tasks import Small

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Logs that are saved before each evaluation."""
    monkeypatch.setattr(evaluation_log, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(evaluation_log, "SAVE_SHARE", 0)


class HeldBack(Small):
    """With examples that are held back, whose loss at the start is a number apart."""

    def sample(self, seed):
        problem = super().sample(seed)
        return replace(problem, holdout_loss=problem.outer_loss)


def same(one, other):
    pd.testing.assert_frame_equal(
        *(result.frame.drop(columns="wall_s") for result in (one, other))
    )
    assert one.schedule == other.schedule
    pairs = zip(tree_leaves(one.state), tree_leaves(other.state), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("estimator", ["reverse", "short_term"])
def test_a_killed_one_goes_on_to_the_same_rows(estimator, tmp_path, monkeypatch):
    run = partial(optimize, HeldBack(), estimator, budget=200, seed=3, progress=False)
    undisturbed, computed = run(), Computed(monkeypatch)
    named = partial(run, name="x", storage=tmp_path)
    for allowed in (2, 3):
        computed.count, computed.allowed = 0, allowed
        with pytest.raises(Killed):
            named()
    computed.allowed = math.inf
    same(named(), undisturbed)
    computed.count = 0
    finished = named()
    same(finished, undisturbed)
    assert computed.count == 0
    assert finished.start_holdout_loss == undisturbed.start_holdout_loss
    frame = pd.read_parquet(tmp_path / "x" / "frame.parquet")
    pd.testing.assert_frame_equal(frame, finished.frame)


def test_ctrl_c_gives_what_was_found_and_the_same_call_goes_on(tmp_path, monkeypatch):
    run = partial(optimize, Quadratic(), "reverse", budget=400)
    undisturbed, shown = run(progress=False), []

    def show(report, best):
        shown.append(report)
        if len(shown) == 7:
            raise KeyboardInterrupt

    named = partial(run, name="x", storage=tmp_path)
    interrupted = named(progress=show)
    assert interrupted.interrupted
    assert len(interrupted.reports) == 7
    computed = Computed(monkeypatch)
    same(named(progress=False), undisturbed)
    assert computed.count < len(undisturbed.reports)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"budget": 300}, r"other budget \(400.0 then, 300.0 now\): give the same"),
        ({"seed": 1}, "other seed"),
        ({"hyper_lr": 0.1}, r"other hyper_lr \(none then, 0.1 now\)"),
        ({"estimator": "forward"}, "other estimator"),
        ({"name": "a/b"}, "a name must consist of"),
    ],
    ids=str,
)
def test_a_name_is_of_one_optimization(change, match, tmp_path):
    settings = {"estimator": "reverse", "budget": 400, "name": "x", "progress": False}
    optimize("quadratic", **settings, storage=tmp_path)
    with pytest.raises(ValueError, match=match):
        optimize("quadratic", **settings | change, storage=tmp_path)


def test_what_was_evaluated_on_other_data_does_not_count(tmp_path, monkeypatch, capsys):
    settings = {"estimator": "reverse", "budget": 60, "name": "x"}
    optimize(Small(), **settings, storage=tmp_path, progress=False)
    with monkeypatch.context() as patch:
        randn = torch.randn
        patch.setattr(torch, "randn", lambda *a, **b: randn(*a, **b) + 0.1)
        other = optimize(Small(), **settings, storage=tmp_path)
        del settings["name"]
        same(other, optimize(Small(), **settings, progress=False))
    assert "it begins anew" in capsys.readouterr().out


def test_who_gives_no_name_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    optimize("quadratic", "reverse", budget=100, progress=False)
    assert not list(tmp_path.iterdir())
