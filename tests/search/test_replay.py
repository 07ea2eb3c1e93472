"""Trials that are trained again from a folder."""

import json

import pandas as pd
import pytest

from raymeta import compare, optimize, replay
from raymeta.cli import main
from raymeta.hypergrad import ShortTerm
from raymeta.results.jsonlines import JsonLines
from raymeta.search.methods.pbt import Pbt
from raymeta.tasks import Quadratic
from raymeta.testing import in_process

METHODS = ["random", "asha", "hyperband", "pbt", "tpe_descent", "short_term"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    storage = tmp_path_factory.mktemp("compared")
    with in_process.comparisons():
        compare(
            *("quadratic", METHODS),
            **{"budget": 300, "seeds": 1, "name": "x", "progress": False},
            storage=storage,
        )
    return storage / "x"


@pytest.fixture(scope="module")
def replayed(compared):
    return replay(compared, progress=False)


def test_every_trial_of_every_kind_gives_what_it_gave(compared, replayed):
    assert replayed["identical"].all(), replayed["differs"].tolist()
    frame = pd.read_parquet(compared / "frame.parquet")
    trials = frame.groupby(["task", "method", "seed", "trial"], sort=False)
    assert len(replayed) == len(trials)
    assert replayed["reports"].sum() == len(frame)
    assert (frame["parent"] != frame["trial"]).any()  # one went on with another's
    last = trials["outer_loss"].agg(lambda losses: losses.iloc[-1]).to_numpy()
    assert replayed["again"].tolist() == pytest.approx(last, rel=0, nan_ok=True)


def rewritten(compared, folder, **changes):
    """A copy whose journal has other numbers in the last report of `random`'s first."""
    folder.mkdir()
    for file in ("comparison.json", "frame.parquet"):
        (folder / file).write_bytes((compared / file).read_bytes())
    lines = JsonLines(compared / "journal.jsonl").read()
    journal = JsonLines(folder / "journal.jsonl")
    journal.begin()
    for line in lines:
        if line.get("reports") and line["study"][1] == "random" and line["trial"] == 0:
            line["reports"][-1] |= changes
        journal.append({k: v for k, v in line.items() if k != "crc32"})
    journal.close()
    return folder


def test_what_differs_is_named_and_the_exit_code_says_so(compared, tmp_path, capsys):
    first = JsonLines(compared / "journal.jsonl").read()
    (loss,) = (
        line["reports"][-1]["outer_loss"]
        for line in first
        if line.get("reports") and line["study"][1] == "random" and line["trial"] == 0
    )
    folder = rewritten(compared, tmp_path / "x", outer_loss=loss * (1 + 1e-15))
    assert main(["replay", str(folder), "--trial", "quadratic/random/0/0", "-q"]) == 2
    said = capsys.readouterr()
    assert said.out.startswith("quadratic/random/0/0, report 1: outer_loss was ")
    assert "0 of 1 trials of" in said.err
    assert main(["replay", str(folder), "--trial", "quadratic/random/0/1", "-q"]) == 0
    assert "1 of 1 trials give the numbers" in capsys.readouterr().out


def test_json_has_every_trial(compared, capsys):
    name = "quadratic/short_term"
    assert main(["replay", str(compared), "--trial", name, "--json"]) == 0
    (trial,) = json.loads(capsys.readouterr().out)["trials"]
    assert trial["identical"] is True
    assert trial["outer_loss"] == trial["again"]


def test_an_optimization_is_one_trial(tmp_path, capsys):
    settings = {"budget": 200, "storage": tmp_path, "progress": False}
    optimize("quadratic", "reverse", name="x", **settings)
    assert replay(tmp_path / "x", progress=False)["identical"].tolist() == [True]
    frame = pd.read_parquet(tmp_path / "x" / "frame.parquet")
    assert replay(tmp_path / "x", progress=False)["reports"].item() == len(frame)
    with pytest.raises(
        ValueError, match="an optimization, which is one trial, but got"
    ):
        replay(tmp_path / "x", "quadratic/reverse/0/0")
    own = ShortTerm(3)
    optimize("quadratic", own, name="y", **settings)
    assert main(["replay", str(tmp_path / "y")]) == 2
    assert "which is no estimator by name" in capsys.readouterr().err
    assert replay(tmp_path / "y", estimator=own, progress=False)["identical"].all()


def test_own_tasks_and_methods_are_given(tmp_path):
    task, methods = Quadratic(horizon=4, name="own"), [Pbt(population=2, intervals=2)]
    with in_process.comparisons():
        compare(
            task,
            methods,
            budget=60,
            seeds=1,
            name="x",
            storage=tmp_path,
            progress=False,
        )
    given = {"tasks": task, "progress": False}
    assert replay(tmp_path / "x", methods=methods, **given)["identical"].all()
    with pytest.raises(ValueError, match="of the task 'own', which is none by name"):
        replay(tmp_path / "x", progress=False)
    with pytest.raises(ValueError, match="use another name"):
        replay(tmp_path / "x", methods=methods, tasks=Quadratic(name="own"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trial", "quadratic/randm/0"], "did you mean"),
        (["--trial", "quadratic/random/0/99"], "quadratic/random/0"),
    ],
)
def test_bad_input_is_one_line(compared, capsys, arguments, said):
    assert main(["replay", str(compared), *arguments]) == 2
    (line,) = (x for x in capsys.readouterr().err.splitlines() if "error" in x)
    assert said in line


def test_a_folder_without_a_run_is_told(compared, tmp_path, capsys):
    assert main(["replay", str(tmp_path / "nothing")]) == 2
    assert main(["replay", str(tmp_path)]) == 2
    assert "results/NAME of one" in capsys.readouterr().err
    folder = rewritten(compared, tmp_path / "x")
    (folder / "journal.jsonl").unlink()
    assert main(["replay", str(folder)]) == 2
    assert "journal.jsonl" in capsys.readouterr().err
