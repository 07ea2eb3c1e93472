"""Trials on several ranks: what they report, how they end, and what is refused."""

import itertools
import json
import os
import signal
from dataclasses import dataclass, replace

import pandas as pd
import pytest
import torch
from ray import cloudpickle

from raymeta.search import compare
from raymeta.search.methods import METHODS
from raymeta.search.spec import Segment, StudyKey, TrialSpec
from raymeta.search.worker import trial_runner
from raymeta.search.worker.trial_store import TrialStore
from tests.support import on_ranks, small_tasks
from tests.support.small_tasks import Bounded

# Workers cannot import what lies among the tests.
cloudpickle.register_pickle_by_value(small_tasks)
#: Rounding alone, grown over the steps of a training.
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
ASHA = METHODS["asha"]
POINT = Bounded().space.initial_point()


class Raising(Bounded):
    """Which cannot say how good its last weights are."""

    def sample(self, seed):
        problem = super().sample(seed)

        def outer_loss(state, hparams):
            raise OSError("no space left")

        return replace(problem, outer_loss=outer_loss)


def trial(task, method, kind, **more):
    study = StudyKey(task.name, method.name, 0)
    return TrialSpec(study=study, number=0, kind=kind, **more), task, method


def plain(reports):
    """Reports as rows, without their times."""
    rows = [report.travelling() for report in reports]
    hparams = pd.DataFrame([row.pop("hparams") for row in rows])
    return pd.concat([pd.DataFrame(rows), hparams], axis=1).drop(columns="wall_s")


def same(found, truth):
    pd.testing.assert_frame_equal(plain(found), plain(truth), **CLOSE)


@pytest.mark.parametrize(("name", "budget"), [("long_term", 60.0), ("adam", 20.0)])
def test_descents_on_ranks_report_what_one_process_does(
    float64, three_ranks, tmp_path, name, budget
):
    method = METHODS[name]
    run = trial(Bounded(), method, "descent", budget=budget)
    truth = list(trial_runner.reports_of(*run))
    for found in three_ranks.run(on_ranks.trial, run, tmp_path, world=2):
        same(found, truth)
    assert len(list(tmp_path.rglob("*.log"))) == 1  # of rank 0 alone
    assert bool(list(tmp_path.rglob("snapshot.pt"))) == (len(truth) > 2)
    # Another attempt has the same to say, from what rank 0 has kept.
    again, other = three_ranks.run(on_ranks.trial, run, tmp_path, world=2)
    same(again, truth)
    same(other, truth)


def test_a_search_goes_on_from_what_rank_0_has_saved(float64, three_ranks, tmp_path):
    task = Bounded()
    run = trial(task, ASHA, "search", hparams=POINT, keep=True)
    truth = list(trial_runner.reports_of(*run))
    for found in three_ranks.run(on_ranks.trial, run, tmp_path, world=2):
        same(found, truth)
    first = truth[0].inner_steps
    rest = trial(
        task,
        ASHA,
        "search",
        hparams=POINT,
        before=(Segment(first, POINT),),
        origin=0,
        keep=True,
    )
    truth = list(trial_runner.reports_of(*rest, TrialStore(tmp_path)))
    for found in three_ranks.run(on_ranks.trial, rest, tmp_path, world=2):
        same(found, truth)
    # Which estimator has room, rank 0 says.
    assert three_ranks.run(on_ranks.decided, world=2) == [0, 0]
    assert three_ranks.run(on_ranks.ended_early, run, tmp_path, world=2) == [2, 2]


def test_what_all_ranks_raise_is_the_trials_own_and_what_one_does_is_not(
    float64, three_ranks, tmp_path
):
    run = trial(Raising(), ASHA, "search", hparams=POINT)
    truth = list(trial_runner.reports_of(*run))
    assert "no space left" in truth[-1].failure
    for found in three_ranks.run(on_ranks.trial, run, tmp_path, world=2):
        same(found, truth)
    own, gone = ValueError("full"), RuntimeError("Connection closed by peer [::1]")
    told = "rank {} fails alone: ValueError: full"
    for name, errors, alone, said in (
        ("alike", [own, own], False, ["alike", "alike"]),
        ("alone", [own, own], True, [told.format(0), told.format(1)]),
        ("gone", [gone, own], True, [f"RuntimeError: {gone}", told.format(1)]),
    ):
        place = tmp_path / name
        place.mkdir()
        given = on_ranks.failing, place, errors, alone
        assert three_ranks.run(*given, world=2) == said


@dataclass(frozen=True, kw_only=True)
class Dying(Bounded):
    """A task whose rank 1 is killed in mid-trial, where a file says so, once."""

    file: str

    def sample(self, seed):
        problem, calls = super().sample(seed), itertools.count()

        def init(hparams):
            dist = torch.distributed
            late = dist.is_initialized() and dist.get_rank() and next(calls) == 4
            if late and os.path.exists(self.file):
                os.unlink(self.file)
                os.kill(os.getpid(), signal.SIGKILL)
            return problem.init(hparams)

        return replace(problem, init=init)


@pytest.mark.ray
def test_a_comparison_of_trials_on_two_workers_is_that_of_one(cluster, tmp_path):
    file = tmp_path / "die"
    file.touch()
    task = Dying(file=str(file))
    cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["x"]))
    settings = {"budget": 80, "seeds": 1, "storage": tmp_path, "progress": False}
    methods = ["asha", "long_term"]
    found = compare(task, methods, name="two", workers_per_trial=2, **settings)

    assert not file.exists()
    events = (tmp_path / "two" / "journal.jsonl").read_text().splitlines()
    starts = [json.dumps(json.loads(e)) for e in events if '"start"' in e]
    assert len(starts) == len(set(starts)) + 1  # the trial ran again
    assert (found.failure == "").all()
    from raymeta.testing.in_process import comparisons

    with comparisons():
        truth = compare(task, methods, name="one", **settings)
    pd.testing.assert_frame_equal(
        *(x.drop(columns="wall_s") for x in (found, truth)), **CLOSE
    )
    with pytest.raises(ValueError, match=r"other workers_per_trial \(2 then, 1 now\)"):
        compare(task, methods, name="two", **settings)
    with pytest.raises(
        ValueError, match=r"^3 workers of a trial need 1 CPU each.*room for 2"
    ):
        compare(task, methods, name="three", workers_per_trial=3, **settings)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"workers_per_trial": 0}, "^workers_per_trial must be a number of proc"),
        ({"workers_per_trial": 1.5}, "^workers_per_trial must be a number of proc"),
        ({"workers_per_trial": True}, "^workers_per_trial must be a number of proc"),
        ({"workers_per_trial": 7}, "^task 'small': .* each of 7 ranks, but .* has 6"),
        (
            {"workers_per_trial": 2, "gpus_per_trial": 0.5},
            "^every worker of a trial gets as many GPUs, but got 0.5 for workers_per",
        ),
    ],
)
def test_workers_that_make_no_sense_are_refused(tmp_path, given, said):
    with pytest.raises(ValueError, match=said):
        compare(Bounded(), "random", storage=tmp_path, name="x", **given)
    assert not list(tmp_path.iterdir())
