"""Optimizations on Ray Train: the rows of one process, and how they end."""

import itertools
import os
import signal
from dataclasses import dataclass, replace

import pandas as pd
import pytest
import torch
from ray import cloudpickle

import raymeta
from tests.support import small_tasks
from tests.support.small_tasks import Small
from tests.workers import test_rank

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("float64")]

# Workers cannot import what lies among the tests.
for module in (small_tasks, test_rank):
    cloudpickle.register_pickle_by_value(module)


@dataclass(frozen=True, kw_only=True)
class Dying(Small):
    """A task whose rank 1 is killed where a file says so, at once or in mid-descent."""

    file: str = ""

    def sample(self, seed):
        self._die(self.file)
        problem, runs = super().sample(seed), itertools.count()

        def init(hparams):
            if next(runs) == 12:
                self._die(f"{self.file}-later")
            return problem.init(hparams)

        return replace(problem, init=init)

    def _die(self, file):
        dist = torch.distributed
        if os.path.exists(file) and dist.is_initialized() and dist.get_rank():
            if file != self.file:
                os.unlink(file)  # once
            os.kill(os.getpid(), signal.SIGKILL)


def test_two_workers_equal_one_process_and_one_that_dies_is_told_in_a_line(
    cluster, tmp_path
):
    truth = raymeta.optimize(Small(), budget=150, seed=3, progress=False)
    shown, marker = [], tmp_path / "die"
    settings = {
        "budget": 150,
        "seed": 3,
        "workers": 2,
        "name": "x",
        "storage": tmp_path,
        "progress": lambda report, best: shown.append(report.outer_loss),
    }
    task = Dying(file=str(marker))
    marker.touch()
    with pytest.raises(ValueError, match=r"ended because .*the same name goes on"):
        raymeta.optimize(task, **settings)
    assert shown == []
    marker.rename(f"{marker}-later")
    result = raymeta.optimize(task, **settings)  # all start again by themselves
    assert not list(tmp_path.glob("die*"))
    test_rank.same(result, truth)
    assert len(shown) == len(truth.reports)
    assert result.hparams.keys() == truth.hparams.keys()
    found, whole = (x.module().state_dict() for x in (result, truth))
    for name, x in whole.items():
        torch.testing.assert_close(found[name], x, rtol=1e-10, atol=1e-10)
    frame = pd.read_parquet(tmp_path / "x" / "frame.parquet")
    pd.testing.assert_frame_equal(frame, result.frame)
    assert not (tmp_path / "x" / ".ray").exists()
