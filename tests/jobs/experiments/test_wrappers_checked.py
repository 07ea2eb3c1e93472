"""The check of wrappers is one that can fail."""

import dataclasses

import pytest

from jobs.experiments import wrappers_checked
from jobs.experiments.wrappers_checked import checked, main, row
from raymeta.search.methods import METHODS


def bowl(point):
    return sum((x + 2) ** 2 for x in point)


def test_tpe_suggests_what_optuna_does():
    found = checked("tpe", [bowl], seeds=2, evaluations=14)
    assert found["equal"] == 1
    assert found["ours"] == pytest.approx(found["theirs"], rel=1e-6)
    assert row(found).endswith("| within noise |")


def test_a_wrapper_that_searches_elsewhere_is_told(monkeypatch):
    other = dataclasses.replace(METHODS["random"], name="tpe")
    monkeypatch.setitem(wrappers_checked.METHODS, "tpe", other)
    monkeypatch.setitem(
        wrappers_checked.DIRECT, "tpe", lambda f, seed, n: [f((-2, -2))] * n
    )
    with pytest.raises(ValueError, match="a search ended after 1 of 4"):
        checked("tpe", [bowl], seeds=2, evaluations=4)
    monkeypatch.setitem(
        wrappers_checked.DIRECT, "tpe", lambda f, seed, n: [f((-2, -2)) for _ in "1234"]
    )
    assert row(checked("tpe", [bowl], 3, 4)).endswith("| differs |")


def test_too_few_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["wrappers_checked", "--seeds", "1"])
    with pytest.raises(SystemExit):
        main()
    assert "--seeds needs at least 2, but got 1" in capsys.readouterr().err
