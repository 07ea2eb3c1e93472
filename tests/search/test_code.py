"""A comparison that is continued runs what it began with, or says that it would not."""

import json
import sys
import textwrap

import pandas as pd
import pytest
from search_toys import Bowl, Listed

from raymeta.results.run_folder import write_json
from raymeta.results.validity import InvalidComparison
from raymeta.search.compare import compare
from raymeta.search.fairness import first_values, same_values
from raymeta.search.worker import trial_runner
from raymeta.tasks import Quadratic, loading
from raymeta.testing.in_process import run_trial

TASK = """
    from dataclasses import dataclass
    from pathlib import Path
    import torch
    from raymeta import Positive, Space, descent
    from raymeta.optim import sgd

    SCALE = 1.0

    def outer(params, hparams):
        return SCALE * (params["w"] - 1.0) ** 2

    @dataclass(frozen=True)
    class Mine:
        name: str = "mine"
        horizon: int = 4
        budget: float = 40.0

        @property
        def space(self):
            return Space(lr=Positive(0.1, low=0.01, high=1.0))

        def sample(self, seed):
            start = float(Path(__file__ + ".data").read_text())
            return descent(
                init_params=lambda hparams: {"w": torch.tensor(start)},
                inner_loss=lambda params, hparams, batch: (params["w"] - 1.0) ** 2,
                outer_loss=outer,
                optimizer=lambda hparams: sgd(lr=hparams["lr"]),
            )
"""


@pytest.fixture(autouse=True)
def _inline(monkeypatch):
    """Trials run in this process; after `stop_after` of them the driver is gone."""
    monkeypatch.setattr(sys.modules["raymeta.search.compare"], "_run", run)
    run.stop_after = None


def run(plan, coordinator, folder, *others):
    folder.folder.record_run()
    count = 0
    while trial := coordinator.request_trial():
        if count == run.stop_after:
            raise KeyboardInterrupt
        count += 1
        run_trial(coordinator, trial)
    return True


@pytest.fixture
def mine(tmp_path):
    """Write the task's file, perhaps changed, as a process of its own would find it."""

    def write(old="", new="", start=0.0):
        path = tmp_path / "mine.py"
        path.write_text(textwrap.dedent(TASK).replace(old, new))
        path.with_name("mine.py.data").write_text(str(start))
        loading._files.clear()
        trial_runner._problems.clear()
        trial_runner._fingerprints.clear()
        return f"{path}:Mine"

    return write


def compared(task, tmp_path, stop_after=None, methods="random"):
    run.stop_after = stop_after
    options = {"seeds": 1, "name": "x", "storage": tmp_path, "progress": False}
    return compare(task, methods, **options)


def interrupted(task, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        compared(task, tmp_path, stop_after=2)
    return (tmp_path / "x" / "journal.jsonl").read_text()


def test_the_same_code_goes_on(mine, tmp_path):
    interrupted(mine(), tmp_path)
    frame = compared(mine('"""', '""" # a comment'), tmp_path)
    assert list(frame.status[-1:]) == ["final"]
    pd.testing.assert_frame_equal(compared(mine(), tmp_path), frame)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("SCALE = 1.0", "SCALE = 2.0", "mine.outer"),
        ("- 1.0) ** 2\n\n@", "- 1.0).abs()\n\n@", "mine.outer"),
        ('(params["w"] - 1.0) ** 2,', '(params["w"] - 2) ** 2,', "mine.Mine.sample"),
    ],
)
@pytest.mark.parametrize("stop_after", [2, None], ids=["interrupted", "finished"])
def test_other_code_is_refused_before_anything_is_spent(
    stop_after, old, new, named, mine, tmp_path
):
    if stop_after:
        interrupted(mine(), tmp_path)
    else:
        compared(mine(), tmp_path)
    journal = (tmp_path / "x" / "journal.jsonl").read_text()
    record = (tmp_path / "x" / "comparison.json").read_text()

    with pytest.raises(ValueError, match="started with other code") as error:
        compared(mine(old, new), tmp_path)

    assert str(error.value) == (
        f"{tmp_path / 'x'} was started with other code, for since then {named} changed:"
        " use another name, or take the change back"
    )
    assert (tmp_path / "x" / "journal.jsonl").read_text() == journal
    assert (tmp_path / "x" / "comparison.json").read_text() == record


def test_before_the_first_trial_code_may_change(mine, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        compared(mine(), tmp_path, stop_after=0)
    (tmp_path / "x" / "journal.jsonl").write_text("")  # what a crash leaves

    frame = compared(mine("SCALE = 1.0", "SCALE = 2.0"), tmp_path)

    assert len(frame) > 3
    with pytest.raises(ValueError, match="started with other code"):
        compared(mine(), tmp_path)


def test_other_numbers_of_the_same_code_are_refused(mine, tmp_path):
    journal = interrupted(mine(start=0.0), tmp_path)

    with pytest.raises(ValueError, match="seed the data") as error:
        compared(mine(start=0.5), tmp_path)

    assert str(error.value).startswith(
        f"{tmp_path / 'x'} was started where task 'mine' had outer losses of 1 and "
        "0.64 before and after its first step, and has 0.25 and 0.16 now: its data,"
    )
    assert (tmp_path / "x" / "journal.jsonl").read_text() == journal
    with pytest.warns(InvalidComparison, match="weights differ"):
        frame = compared(mine(start=1e-7), tmp_path)  # as another machine rounds
    assert list(frame.status[-1:]) == ["final"]


def test_a_folder_from_before_code_was_noted_goes_on(mine, tmp_path):
    interrupted(mine(), tmp_path)
    file = tmp_path / "x" / "comparison.json"
    record = json.loads(file.read_text())
    assert record["first_values"]["mine"][:2] == pytest.approx([1.0, 0.64])
    for name in ("code", "first_values"):
        del record[name]
    write_json(record, file)

    compared(mine(), tmp_path)

    assert set(json.loads(file.read_text())["code"]["parts"]) >= {"mine.outer"}


def test_methods_of_ones_own_count_and_counters_do_not(tmp_path, monkeypatch):
    compared(Bowl(), tmp_path, methods=Listed((0.1, 0.2)))
    compared(Bowl(), tmp_path, methods=Listed((0.1, 0.2)))
    monkeypatch.setattr(Listed, "rungs", lambda self, task: (task.horizon,))

    with pytest.raises(ValueError, match="changed: use another name"):
        compared(Bowl(), tmp_path, methods=Listed((0.1, 0.2)))


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        ([0.5, 0.25, 1.0], [0.5, 0.25, 1.0], True),
        ([0.5, 0.25, 1.0], [0.5 + 1e-6, 0.25 - 1e-6, 1.0], True),
        ([0.5, 0.25, 1.0], [0.5, 0.26, 1.0], False),
        ([0.5, float("nan"), 1.0], [0.5, float("nan"), 1.0], True),
        ([0.5, float("nan"), 1.0], [0.5, 0.2, 1.0], False),
        ([], [0.5, 0.2, 1.0], True),
    ],
)
def test_numbers_are_the_same_up_to_rounding(then, now, same):
    assert same_values(then, now) is same


def test_first_values_are_losses_around_a_step():
    task = Quadratic()
    problem, hparams = task.sample(0), task.space.initial()
    start, batch = problem.init(hparams), problem.batch(0)
    end = problem.step(start, hparams, batch)

    found = first_values(problem, hparams)

    losses = [float(problem.outer_loss(state, hparams)) for state in (start, end)]
    assert found[:2] == losses
    assert found[2] > 0
    assert first_values(None, hparams) == []
