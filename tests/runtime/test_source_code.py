"""The code that things are made of: what changes it, and what does not."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from raymeta.modules import module_problem
from raymeta.runtime import source_code
from raymeta.runtime.source_code import changed, code_of, listed, modules_of, recorded

LOSSES = """
    import torch
    from torch import nn

    WEIGHT = 0.5
    NAMES = frozenset({"a", "b", "c"})

    def helper(error):
        return error.abs() ** 2

    def loss(out, y):
        return WEIGHT * helper(out - y).mean()

    def unused(out):
        return out + 1

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, x):
            return torch.tanh(self.layer(x))
"""

TASK = """
    from dataclasses import dataclass
    import functools
    import losses
    from losses import Net
    from raymeta import Positive, Space, module_problem
    from raymeta.optim import sgd

    count = 0
    seen = []
    SETTINGS = {"shift": 1, "of": "opt/lr", "in": "/data/one"}

    def rule(hparams, momentum=0.9):
        return sgd(hparams["lr"], momentum=momentum)

    @dataclass(frozen=True)
    class Mine:
        name: str = "mine"
        horizon: int = 4
        budget: float = 40.0
        noise: float = 0.1

        @property
        def space(self):
            return Space(lr=Positive(0.1, low=0.01, high=1.0))

        def sample(self, seed):
            global count
            count += 1
            seen.append(count)
            data = made(seed, scale=2.0)
            return module_problem(
                Net(), loss=losses.loss, train=data, val=data,
                optimizer=functools.partial(rule, momentum=0.8),
                batch_size=2, seed=seed)

    def made(seed, scale):
        import torch
        from torch.utils.data import TensorDataset
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)) * scale
        if any(name in losses.NAMES for name in ("a", "z")):
            x = x + SETTINGS["shift"]
        return TensorDataset(x, x[:, :1])
"""

#: Each folder's task in a process of its own; what takes long to import is there.
PROGRAM = """
import json, os, sys
import raymeta.modules
from raymeta.runtime.source_code import code_of
for folder in sys.argv[1:]:
    if os.fork() == 0:
        sys.path.insert(0, folder)
        import task
        print(json.dumps(code_of(task.Mine())), flush=True)
        os._exit(0)
    os.wait()
"""


def write(folder, changes=()):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("losses", LOSSES), ("task", TASK)):
        text = textwrap.dedent(text)
        for old, new in changes:
            text = text.replace(old, new)
        (folder / f"{name}.py").write_text(text)


def codes_in(*folders, seed):
    """The code of the task in each folder, where hashes are ordered by a seed."""
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, folders)],
        env=os.environ | path | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun")
    write(folder)
    return codes_in(folder, seed="1")[0]


def test_what_a_task_is_made_of_is_followed_through_its_modules(begun):
    assert set(begun) == {
        *("losses.Net", "losses.Net.__init__", "losses.Net.forward"),
        *("losses", "losses.helper", "losses.loss"),
        *("task.Mine", "task.Mine.__init__", "task.Mine.__eq__", "task.Mine.__hash__"),
        *(
            "task.__create_fn__.<locals>.__repr__",
            "task.Mine.sample",
            "task.Mine.space",
        ),
        *("task.Mine.__delattr__", "task.Mine.__setattr__"),
        *("task.made", "task.rule"),
    }


NOTHING = [
    ("/data/one", "/data/other"),
    ("def loss(out, y):", "def loss(out, y):  # a comment\n    '''And what it is.'''"),
    ("WEIGHT = 0.5", "# above\n\n\nWEIGHT = 0.50"),
    ("return out + 1", "return out + 2"),
    ("count = 0", "count = 7"),
    ("seen = []", "seen = [1, 2]"),
]


SOMETHING = [
    ("** 2", "** 3", ["losses.helper"]),
    (".mean()", ".sum()", ["losses.loss"]),
    ("WEIGHT = 0.5", "WEIGHT = 0.6", ["losses.loss"]),
    ("torch.tanh", "torch.relu", ["losses.Net.forward"]),
    ("nn.Linear(3, 1)", "nn.Linear(3, 1, bias=False)", ["losses.Net.__init__"]),
    ("momentum=0.8", "momentum=0.7", ["task.Mine.sample"]),
    ("momentum=0.9", "momentum=0.7", ["task.rule"]),
    ("scale=2.0", "scale=3.0", ["task.Mine.sample"]),
    ("x = x + S", "x = x - S", ["task.made"]),
    (
        "noise: float = 0.1",
        "noise: float = 0.2",
        ["task.Mine", "task.Mine.__init__"],
    ),
    ('"c"})', '"d"})', ["losses"]),
    ('"shift": 1', '"shift": 2', ["task.made"]),
    ('"opt/lr"', '"opt/rate"', ["task.made"]),
]
CHANGES = [*NOTHING, *((old, new) for old, new, _ in SOMETHING)]


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    """The task's code after each change, and after none; from one start of Python."""
    folders = {}
    for change in (None, *CHANGES):
        folders[change] = tmp_path_factory.mktemp("changed")
        write(folders[change], [change] if change else [])
    return dict(zip(folders, codes_in(*folders.values(), seed="2"), strict=True))


@pytest.mark.parametrize("change", [None, *NOTHING])
def test_the_same_code_elsewhere_is_the_same(change, begun, codes):
    """In another process, folder and order of hashes; with other words around it."""
    assert changed(recorded(begun), codes[change]) == []


@pytest.mark.parametrize(("old", "new", "named"), SOMETHING)
def test_a_change_is_noticed_and_named(old, new, named, begun, codes):
    assert changed(recorded(begun), codes[old, new]) == named


def test_another_python_compiles_something_else(begun, monkeypatch):
    then = recorded(begun)
    monkeypatch.setattr(source_code, "_python", lambda: "3.99")
    assert changed(then, {"task.Mine": "other"}) == []


def test_closures_partials_methods_and_modules_are_followed():
    def closed(weight):
        def loss(out, y):
            return weight * (out - y)

        return loss

    class Held:
        def rule(self, hparams):
            return hparams

        @functools.lru_cache  # noqa: B019
        def cached(self):
            return 3

    inside = {
        "partial": functools.partial(closed(1.0), y=2),
        "bound": Held().rule,
        "module": nn.Sequential(nn.Linear(2, 2), _Square()),
    }
    found = set(code_of(inside))

    name = "test_closures_partials_methods_and_modules_are_followed.<locals>"
    assert {n.rpartition("test_source_code.")[2] for n in found} == {
        f"{name}.closed.<locals>.loss",
        *(f"{name}.Held", f"{name}.Held.rule", f"{name}.Held.cached"),
        *("_Square", "_Square.forward"),
    }
    assert code_of(closed(1.0)) != code_of(closed(2.0))
    assert code_of(closed(1.0)) == code_of(closed(1.0 + 1e-15))


class _Square(nn.Module):
    def forward(self, x):
        return x**2


def test_a_problem_that_is_made_already_holds_its_loss():
    def loss(out, y):
        return (out - y).square().mean()

    data = torch.utils.data.TensorDataset(torch.ones(4, 2), torch.ones(4, 1))
    problem = module_problem(
        nn.Linear(2, 1), loss=loss, train=data, val=data, batch_size=2, seed=0,
        optimizer=lambda hparams: None,
    )  # fmt: skip
    names = [name.rpartition(".")[2] for name in code_of(problem)]
    assert names == ["<lambda>", "loss"]


def test_libraries_are_not_followed():
    assert code_of(nn.Linear(2, 2), torch.optim.SGD, dataclasses.dataclass) == {}
    assert modules_of(nn.Linear(2, 2)) == []
    assert [m.__name__ for m in modules_of(_Square())] == [__name__]


def test_many_names_are_few_words():
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdefgh")) == "a, b, c, d, e and 3 more"
