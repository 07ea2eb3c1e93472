"""What is no task is refused on one line, wherever it is used first."""

import math

import pytest

from raymeta import optimize
from raymeta.cli import main
from raymeta.hypergrad import Reverse
from raymeta.search import compare
from raymeta.space import Positive, Space
from raymeta.tasks import Quadratic


class Fine:
    """A task."""

    name, horizon, budget = "fine", 5, 100.0
    space = Space(lr=Positive(0.1, low=1e-3, high=1.0))

    def sample(self, seed):
        return Quadratic(horizon=5).sample(seed)


def but(**parts):
    """A task, but for these parts."""
    return type("Fine", (Fine,), parts)()


def raising(self, seed):
    raise KeyError("data\nnot there")


class Torn(Fine):
    @property
    def space(self):
        return {}["lr"]


class Halved(Fine):
    @property
    def horizon(self):
        return self.steps // 2


REFUSED = {
    "a class": (Fine, r"must be an object, but got the class Fine: pass Fine\(\)"),
    "no task": (
        3,
        "needs name, space, horizon, budget and sample.*, but 3 has no name",
    ),
    "no name": (but(name=""), "needs a name of text without a slash, .* name=''"),
    "a number for a name": (but(name=3), "needs a name of text .* name=3"),
    "a slash": (but(name="a/b"), "without a slash, for it names folders, .*'a/b'"),
    "two lines": (but(name="a\nb"), r"needs a name of text .*name='a\\nb'"),
    "a dictionary": (
        but(space={"lr": Positive(0.1)}),
        "'fine' needs a raymeta.Space with a hyperparameter as its space, but has {'lr",
    ),
    "an empty space": (
        but(space=Space()),
        r"with a hyperparameter.* but has Space\(\)",
    ),
    "no steps": (
        but(horizon=0),
        "needs a whole number of training steps, .* but has 0",
    ),
    "half a step": (but(horizon=5.0), "whole number of training steps.* but has 5.0"),
    "None of steps": (but(horizon=None), "whole number of training steps.* has None"),
    "True steps": (but(horizon=True), "whole number of training steps.* has True"),
    "no budget": (but(budget=None), "that of task 'fine' is None: give budget="),
    "a word for a budget": (
        but(budget="5"),
        "that of task 'fine' is '5': give budget=",
    ),
    "an endless budget": (but(budget=math.inf), "budget.* but got inf"),
    "a budget that is no number": (but(budget=math.nan), "budget.* but got nan"),
    "a negative budget": (but(budget=-1), "budget.* but got -1"),
    "no seed": (but(sample=lambda self: None), r"'fine' needs a method sample\(seed\)"),
    "more than a seed": (
        but(sample=lambda self, seed, more: None),
        r"'fine' needs a method sample\(seed\), but has <.*: let it take a seed",
    ),
    "no method": (but(sample=3), r"'fine' needs a method sample\(seed\), but has 3"),
    "returns nothing": (
        but(sample=lambda self, seed: None),
        r"'fine': sample\(seed\) must return a BilevelProblem, but sample\(0\) returns "
        "None: return what module_problem or descent makes",
    ),
    "returns the loss": (
        but(sample=lambda self, seed: 0.5),
        "returns 0.5: return what",
    ),
    "raises": (but(sample=raising), r"'fine': sample\(0\) raises KeyError: 'data"),
    "raises in its space": (
        Torn(),
        "must have a space, but that raises KeyError: 'lr'",
    ),
    "lacks a part of a part": (Halved(), "have a horizon, but that raises Attribute"),
}
every_task = pytest.mark.parametrize(("task", "match"), REFUSED.values(), ids=REFUSED)


@every_task
def test_optimize_refuses(task, match):
    with pytest.raises(ValueError, match=match) as error:
        optimize(task, Reverse(5))
    assert "\n" not in str(error.value)


@every_task
def test_compare_refuses_before_ray_starts(task, match, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "raymeta.runtime.ray_session._start", lambda *_: pytest.fail("started Ray")
    )
    with pytest.raises(ValueError, match=match) as error:
        compare(task, ["random", "long_term"], storage=tmp_path, progress=False)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_name_that_the_space_lacks_is_refused_before_ray_starts(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "raymeta.runtime.ray_session._start", lambda *_: pytest.fail("started Ray")
    )
    task = but(space=Space(learning_rate=Positive(0.1, low=1e-3, high=1.0)))
    for methods in (["random"], ["random", "long_term"], ["long_term"]):
        with pytest.raises(ValueError, match="unknown hyperparameter 'lr': ") as error:
            compare(task, methods, storage=tmp_path, progress=False)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="unknown hyperparameter 'lr': available: le"):
        optimize(task, Reverse(5))


def test_the_command_line_refuses_alike(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from raymeta.tasks import Quadratic\n"
        "class Mine(Quadratic):\n"
        "    def sample(self, seed): return None\n"
    )
    for command in ("compare", "optimize"):
        assert main([command, "--task", "mine.py:Mine"]) == 2
        said = capsys.readouterr().err
        assert "sample(0) returns None" in said
        assert said.count("\n") == 1
