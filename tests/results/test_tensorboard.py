"""Event files are what TensorBoard reads, and what the frame holds."""

import math
import struct

import numpy as np
import pandas as pd
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from raymeta.results.tensorboard import (
    FOLDER,
    TensorBoardWriter,
    show_comparison,
    show_training,
)
from raymeta.train import recipe, train


def events(folder, run):
    """The last driver's events of a run, from records whose checksums are right."""
    files = sorted((folder / FOLDER / run).iterdir())
    mark = len("events.out.tfevents.1234567890.123456")
    own = [file for file in files if file.name[:mark] == files[-1].name[:mark]]
    content, found = b"".join(file.read_bytes() for file in own), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        data = content[12 : 12 + length]
        crcs = struct.unpack("<I", content[8:12]) + struct.unpack(
            "<I", content[12 + length : 16 + length]
        )
        assert crcs == (masked_crc32c(content[:8]), masked_crc32c(data))
        found.append(Event.FromString(data))
        content = content[16 + length :]
    return found


def curve(folder, run, tag):
    """step -> value."""
    return {
        event.step: value.simple_value
        for event in events(folder, run)
        for value in event.summary.value
        if value.tag == tag
    }


def test_a_file_opens_as_tensorboard_wants_it(tmp_path):
    rows = pd.DataFrame({"x": [0, 3], "wall_s": [0.0, 1.5], "y": [1.0, 2.0]})
    TensorBoardWriter(tmp_path).extend("a/b", rows, step="x", values=["y"])
    version, start, first, second = events(tmp_path, "a/b")
    assert version.file_version == "brain.Event:2"
    assert start.session_log.status == SessionLog.START  # drops what was there before
    assert (start.step, first.step, second.step) == (0, 0, 3)
    assert second.wall_time - first.wall_time == pytest.approx(1.5, abs=1e-5)


def test_rows_are_shown_once_and_anew_by_the_next_driver(tmp_path):
    rows = pd.DataFrame({"x": [0, 1, 2], "wall_s": 0.0, "y": [1.0, 2.0, 3.0]})
    for _ in range(2):
        writer = TensorBoardWriter(tmp_path)
        for known in (1, 1, 3):
            writer.extend("a", rows[:known], step="x", values=["y"])
        assert len(events(tmp_path, "a")) == 2 + 3
        assert curve(tmp_path, "a", "y") == {0: 1.0, 1: 2.0, 2: 3.0}
    # A TensorBoard that looks on would stop at a file that has vanished.
    assert len(list((tmp_path / FOLDER / "a").iterdir())) == 2


def test_a_long_curve_goes_on_in_other_files(tmp_path):
    """An object store takes only whole files: one that grew for ever costs S²."""
    writer, sent = TensorBoardWriter(tmp_path), 0
    rows = pd.DataFrame({"x": range(20_000), "wall_s": 0.0, "y": 1.0})
    for known in range(400, 20_001, 400):  # 30 seconds of a quick run each
        writer.extend("a", rows[:known], step="x", values=["y"])
        sent += max((tmp_path / FOLDER / "a").iterdir()).stat().st_size
    assert list(curve(tmp_path, "a", "y")) == list(range(20_000))
    files = list((tmp_path / FOLDER / "a").iterdir())
    assert sent < 2.5 * sum(file.stat().st_size for file in files)
    kinds = [event.WhichOneof("what") for event in events(tmp_path, "a")]
    assert kinds.count("session_log") == 1
    assert kinds.count("file_version") == len(files)
    assert not writer.is_due()


def row(split, step, rank, tasks, loss, *, workers=2, seed=0):
    return {
        "seed": seed,
        "split": split,
        "outer_step": step,
        "rank": rank,
        "workers": workers,
        "tasks": tasks,
        "outer_loss": loss,
        "far": -loss,
        "grad_norm": 0.5,
        "wall_s": float(step),
    }


def test_training_is_the_mean_over_the_tasks_of_all_ranks(tmp_path):
    rows = [
        row("train", 0, 0, 3, 1.0),
        row("train", 0, 1, 1, 5.0),
        row("train", 1, 0, 3, 2.0),
        row("train", 1, 1, 1, math.nan),
        row("train", 2, 0, 3, 7.0),  # the other rank's is not on the disk yet
        row("val", 0, 0, 9, 4.0),
        row("test", 2, 0, 9, 4.0),
    ]
    writer = TensorBoardWriter(tmp_path)
    show_training(writer, pd.DataFrame(rows), ["far"])
    losses = curve(tmp_path, "seed-0/train", "outer_loss")
    assert losses[0] == (3 * 1.0 + 5.0) / 4
    assert list(losses) == [0, 1]
    assert math.isnan(losses[1])
    assert curve(tmp_path, "seed-0/train", "far")[0] == -losses[0]
    assert curve(tmp_path, "seed-0/train", "grad_norm")[0] == 0.5
    assert curve(tmp_path, "seed-0/val", "outer_loss") == {0: 4.0}
    assert {p.name for p in (tmp_path / FOLDER / "seed-0").iterdir()} == {
        "train",
        "val",
    }
    rows.append(row("train", 2, 1, 1, 7.0))
    show_training(writer, pd.DataFrame(rows), ["far"])
    assert curve(tmp_path, "seed-0/train", "outer_loss")[2] == 7.0


def test_a_step_that_is_done_again_is_drawn_before_the_next(tmp_path):
    """Another attempt goes on from step 1, when one before it had come to step 2."""
    done = [row("train", step, rank, 1, step) for step in (0, 2) for rank in (0, 1)]
    again = [row("train", 1, rank, 1, 9.0) for rank in (0, 1)]
    writer = TensorBoardWriter(tmp_path)
    for rows in ([*done[:2], again[0], *done[2:]], [*done[:2], *again, *done[2:]]):
        show_training(writer, pd.DataFrame(rows), ["far"])
    losses = curve(tmp_path, "seed-0/train", "outer_loss")
    assert list(losses.items()) == [(0, 0.0), (1, 9.0), (2, 2.0)]


def test_a_comparison_is_the_best_so_far_against_gradient_evaluations(tmp_path):
    frame = pd.DataFrame(
        {
            "task": "t",
            "method": ["random"] * 3 + ["tpe"],
            "seed": [0, 0, 0, 1],
            "gradient_evals": [10.0, 20.4, 30.0, 5.0],
            "wall_s": [0.0, 1.0, 2.0, 0.0],
            "best_outer_loss": [np.nan, 0.5, 0.25, 0.125],
        }
    )
    show_comparison(TensorBoardWriter(tmp_path), frame)
    best = curve(tmp_path, "t/random/seed-0", "best_outer_loss")
    assert best == {20: 0.5, 30: 0.25}
    assert curve(tmp_path, "t/tpe/seed-1", "best_outer_loss") == {5: 0.125}


def test_a_training_shows_its_frame(tmp_path):
    settings = {"outer_steps": 4, "tasks_per_step": 2, "checkpoint_every": 2}
    held_out = {"val_tasks": 2, "test_tasks": 2, "test_steps": 1}
    config = recipe("maml", "sinusoid", **settings, **held_out)
    frame = train(config, storage=tmp_path, name="x", progress=False).frame
    for split in ("train", "val"):
        rows = frame[frame["split"] == split].set_index("outer_step")
        shown = curve(tmp_path / "x", f"seed-0/{split}", "outer_loss")
        assert shown == pytest.approx(rows["outer_loss"].to_dict(), rel=1e-6)
