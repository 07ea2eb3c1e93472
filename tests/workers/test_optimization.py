"""Optimizations on Ray Train: the rows of one process, and how they end."""

import os
import signal
from dataclasses import dataclass

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
    """A task whose rank 1 is killed where a file says so."""

    file: str = ""

    def sample(self, seed):
        dist = torch.distributed
        if os.path.exists(self.file) and dist.is_initialized() and dist.get_rank():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(seed)


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
    marker.unlink()
    result = raymeta.optimize(task, **settings)
    test_rank.same(result, truth)
    assert len(shown) == len(truth.reports)
    assert result.hparams.keys() == truth.hparams.keys()
    found, whole = (x.module().state_dict() for x in (result, truth))
    for name, x in whole.items():
        torch.testing.assert_close(found[name], x, rtol=1e-10, atol=1e-10)
    frame = pd.read_parquet(tmp_path / "x" / "frame.parquet")
    pd.testing.assert_frame_equal(frame, result.frame)
    assert not (tmp_path / "x" / ".ray").exists()
