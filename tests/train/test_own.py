"""Learners and families of users, in files and in installed packages."""

from importlib.metadata import EntryPoint

import pytest

from raymeta.cli import main
from raymeta.tasks import loading
from raymeta.train import recipe, train

TEXT = """
import sys
sys.path.insert(0, {support!r})
from dataclasses import dataclass
from train_toys import Points, learner

@dataclass(frozen=True)
class Own(Points):
    name: str = "own"

three = 3
"""


@pytest.fixture
def file(tmp_path, pytestconfig):
    path = tmp_path / "mine.py"
    path.write_text(TEXT.format(support=str(pytestconfig.rootpath / "tests/support")))
    return path


SIZES = {"outer_steps": 2, "tasks_per_step": 2, "val_tasks": 2, "test_tasks": 2}


def test_a_file_has_a_learner_and_a_family(file, tmp_path):
    run = recipe(f"{file}:learner", f"{file}:Own", **SIZES)
    assert (run.algorithm, run.family.name) == ("learner", "own")
    result = train(run, name="x", storage=tmp_path, progress=False)
    assert len(result.frame.query("split == 'train'")) == 2


def test_an_installed_package_has_them_too(file, monkeypatch):
    monkeypatch.syspath_prepend(file.parent)
    points = {
        loading.LEARNER.group: [EntryPoint("theirs", "mine:learner", "")],
        loading.FAMILY.group: [EntryPoint("own-points", "mine:Own", "")],
    }
    found = {"entry_points": lambda group: points.get(group, [])}
    monkeypatch.setattr(loading, "metadata", type("Metadata", (), found))
    run = recipe("theirs", "own-points", **SIZES)
    assert (run.algorithm, run.family.name) == ("theirs", "own")
    with pytest.raises(ValueError, match="'their': did you mean 'theirs'"):
        recipe("their", "sinusoid")


@pytest.mark.parametrize(
    ("algorithm", "family", "settings", "message"),
    [
        ("maml", ":Own", {}, "networks for families that ship, .* learner of your own"),
        (":learner", ":Own", {"inner_lr": 0.1}, "inner loop itself, but got inner_lr="),
        (":learner", ":Own", {"shots": 2}, "sizes itself, but got shots=2: leave it"),
        (":three", ":Own", {}, "three is no learner: .* got a int"),
        (":learner", ":Onw", {}, r"family in .*: 'Onw': did you mean 'Own'\?"),
    ],
)
def test_what_does_not_fit_is_refused(file, algorithm, family, settings, message):
    names = (f"{file}{x}" if x.startswith(":") else x for x in (algorithm, family))
    with pytest.raises(ValueError, match=message) as refused:
        recipe(*names, **settings)
    assert "\n" not in str(refused.value)


def test_the_command_line_names_a_file_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--algorithm", "no.py:learner"]) == 2
    said = "a learner in a file is given as path.py:Name, but there is no file no.py"
    assert said in capsys.readouterr().err
