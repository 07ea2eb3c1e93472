"""Runs on Ray Train: they must equal those in one process."""

import json
import os
import signal
import threading
import time
from contextlib import closing

import pandas as pd
import pytest
import torch
import train_toys
from ray import cloudpickle
from ray.train import RunConfig, ScalingConfig
from train_toys import Points, config

import raymeta
from raymeta.results.jsonlines import JsonLines
from raymeta.runtime.ray_session import ray
from raymeta.train import ray_launcher, train
from raymeta.train.checkpoints import last_step

pytestmark = pytest.mark.ray

# Workers cannot import what lies among the tests.
cloudpickle.register_pickle_by_value(train_toys)


def kill_when_under_way(path, step):
    """Kill -9 the process of rank 1 once the run is past a step."""
    log, pids = JsonLines(path / "events.jsonl"), []
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        for event in log.read_new():
            pids = event.get("pids", pids)
            if event["event"] == "checkpoint" and event["step"] >= step:
                os.kill(pids[1], signal.SIGKILL)
                return
        time.sleep(0.02)


def last_theta(folder):
    path = folder / f"step-{last_step(folder):08}.pt"
    return torch.load(path, weights_only=True)["theta"]["layer.w"]


def train_rows(frame):
    """Per step: the mean loss over all tasks, and the gradient's norm."""
    rows = frame[frame["split"] == "train"]
    weighted = rows.assign(total=rows["outer_loss"] * rows["tasks"])
    steps = weighted.groupby("outer_step")[["total", "tasks"]].sum()
    norms = rows.groupby("outer_step")["grad_norm"]
    assert (norms.nunique() == 1).all()  # the same on all ranks
    return (steps["total"] / steps["tasks"]).tolist(), norms.first().tolist()


def test_two_workers_one_killed_then_one_equal_an_undisturbed_run(
    cluster, here, tmp_path
):
    whole = here("whole", outer_steps=30)
    path, lines = tmp_path / "x", []
    killer = threading.Thread(target=kill_when_under_way, args=(path, 8))
    killer.start()

    # Slow enough to be killed before the end; a mistake that workers find ends it.
    slow = config(outer_steps=30, family=Points(step_s=0.1, ends=21))
    with pytest.raises(ValueError, match=r"^points ran out at step 21$"):
        train(slow, workers=2, name="x", storage=tmp_path, progress=lines.append)
    killer.join()

    assert "seed 0 begins on 2 processes, cpu" in lines
    again = [line for line in lines if line.startswith("seed 0 goes on from")]
    assert again in (
        ["seed 0 goes on from outer step 8 on 2 processes, cpu"],
        ["seed 0 goes on from outer step 12 on 2 processes, cpu"],
    )
    # After the mistake every attempt would fail like that one: they are not all made.
    events = JsonLines(path / "events.jsonl").read()
    assert [e["attempt"] for e in events if e["event"] == "start"] == [1, 2]
    assert not (path / ".ray").exists()
    left = pd.read_parquet(path / "frame.parquet")
    assert sorted(left["attempt"].unique()) == [1, 2]
    rows = left.query("split == 'train'")
    assert len(rows) == 2 * 21  # each step and rank, once
    assert set(rows["outer_step"]) == set(range(21))
    assert set(zip(rows["rank"], rows["tasks"], strict=True)) == {(0, 2), (1, 3)}

    lines.clear()
    mended, spy = config(outer_steps=30), train_toys.spy(str(tmp_path / "reported"))
    last = raymeta.train(
        mended,
        scaling=ScalingConfig(num_workers=1, placement_strategy="SPREAD"),
        run=RunConfig(name="x", storage_path=str(tmp_path), callbacks=[spy]),
        progress=lines.append,
    )

    assert "seed 0 goes on from outer step 20 on 1 process, cpu" in lines
    torch.testing.assert_close(
        last_theta(path / "seed-0"),
        last_theta(tmp_path / "whole" / "seed-0"),
        rtol=1e-10,
        atol=1e-10,
    )
    for mine, plain in zip(
        train_rows(last.frame), train_rows(whole.frame), strict=True
    ):
        assert mine == pytest.approx(plain, rel=1e-10)
    assert last.evaluation["outer_loss"].tolist() == pytest.approx(
        whole.evaluation["outer_loss"].tolist(), rel=1e-10
    )
    assert ray.is_initialized()  # it is not ours

    # Ray Train has heard of it, too.
    told = last.ray_result.metrics
    assert told["test_loss"] == last.evaluation["outer_loss"].iloc[-1]
    assert told["val_loss"] == last.frame.query("split == 'val'")["outer_loss"].iloc[-1]
    heard = (tmp_path / "reported").read_text().splitlines()
    assert json.loads(heard[-1]) == told
    kept = torch.load(f"{last.ray_result.checkpoint.path}/checkpoint.pt")
    assert torch.equal(kept["theta"]["layer.w"], last_theta(path / "seed-0"))


def what_was_learnt(frame):
    """A run's rows, but for when they were made."""
    return frame.drop(columns=["attempt", "wall_s", "step_s"])


def test_seeds_side_by_side_equal_one_after_another_and_one_fails_alone(
    cluster, here, tmp_path
):
    whole = here("whole", seeds=(0, 1)).frame
    lines, place = [], {"workers": 1, "name": "x", "storage": tmp_path}

    def trained(**changes):
        run = config(seeds=(0, 1), **changes)
        return train(run, **place, progress=lines.append).frame

    with pytest.raises(ValueError, match=r"^points ran out at step 6$"):
        trained(family=Points(ends=6, of=1))

    assert "2 of 2 seeds have room side by side" in lines
    assert "seed 1 ends, the others go on: points ran out at step 6" in lines
    assert "seed 0 has finished" in lines
    left = pd.read_parquet(tmp_path / "x" / "frame.parquet")
    assert what_was_learnt(left.query("seed == 0")).equals(
        what_was_learnt(whole.query("seed == 0"))
    )
    assert last_step(tmp_path / "x" / "seed-1") == 4

    lines.clear()
    mended = trained()

    assert "seed 1 goes on from outer step 4 on 1 process, cpu" in lines
    assert what_was_learnt(mended).equals(what_was_learnt(whole))
    for seed in ("seed-0", "seed-1"):
        theta = last_theta(tmp_path / "x" / seed)
        assert torch.equal(theta, last_theta(tmp_path / "whole" / seed))
        assert not (tmp_path / "x" / seed / ".ray").exists()


def test_what_the_cluster_lacks_is_said_and_waited_for_no_longer(cluster, tmp_path):
    lines = []
    match = "2 workers need 2 GPUs, but the cluster has 0; none came within wait=2 s"
    with pytest.raises(ValueError, match=match):
        train(
            config(),
            workers=2,
            gpus=2,
            wait=2,
            name="x",
            storage=tmp_path,
            progress=lines.append,
        )
    assert any(line.startswith("2 workers need 2 GPUs") for line in lines)
    special = ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1, "tpm": 2})
    match = "1 worker needs 2 tpms, but the cluster has 0"
    with pytest.raises(ValueError, match=match):
        train(config(), scaling=special, wait=0, storage=tmp_path, progress=False)
    match = "3 workers need 3 CPUs, but the cluster has 2"
    with pytest.raises(ValueError, match=match):
        train(config(), workers=3, wait=0, name="x", storage=tmp_path, progress=False)


def test_what_cannot_be_sent_to_workers_is_refused(cluster, tmp_path):
    lock = threading.Lock()

    def learner(seed):
        lock.locked()
        return train_toys.learner(seed)

    with pytest.raises(ValueError, match=r"hence must be picklable, but .*lock"):
        train(config(learner=learner), workers=1, storage=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("attempts", "refused"),
    [
        ([(-1, 2), (-1, 2), (-1, 2)], False),  # the first, and two that it goes on
        ([(-1, 2), (-1, 2), (-1, 2), (-1, 2)], True),
        ([(-1, 2), (-1, 2), (4, 2), (4, 2), (4, 2), (8, 2)], False),  # progress
        ([(-1, 2), (4, 2), (4, 2), (4, 1), (4, 1)], True),
        ([(4, 1), (4, 1), (4, 2), (4, 2)], False),  # a worker has come meanwhile
    ],
)
def test_only_attempts_without_progress_use_up_retries(tmp_path, attempts, refused):
    *before, (step, workers) = attempts
    events = [{"event": "attempt", "launch": "other", "done": [-1], "workers": 2}] * 5
    events += [
        {"event": "attempt", "launch": "x", "done": [done], "workers": each}
        for done, each in before
    ]
    events.append({"event": "error", "reason": "OSError: the disk is gone"})
    if step >= 0:
        (tmp_path / "seed-0").mkdir()
        (tmp_path / "seed-0" / f"step-{step:08}.pt").touch()
    arguments = {"seeds": (0,), "group": "", "launch": "x", "retries": 2}
    with closing(JsonLines(tmp_path / "events.jsonl")) as log:
        for event in events:
            log.append(event)
        if not refused:
            ray_launcher._require_progress(tmp_path, workers, arguments, log.append)
            return
        match = "3 times without a checkpoint .* the last one said: OSError: the disk"
        with pytest.raises(ValueError, match=match):
            ray_launcher._require_progress(tmp_path, workers, arguments, log.append)
