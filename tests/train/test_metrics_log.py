"""The frame: put together from what ranks and attempts wrote."""

import pandas as pd

from raymeta.train.metrics_log import ROWS_PER_FILE, Rows, last_attempt, merged


def row(split, step, loss, seed=0, inner_steps=1, **more):
    return {
        "algorithm": "maml",
        "family": "sinusoid",
        "seed": seed,
        "split": split,
        "outer_step": step,
        "workers": 2,
        "inner_steps": inner_steps,
        "tasks": 5,
        "outer_loss": float(loss),
        "skipped": False,
        "wall_s": 1.0,
        **more,
    }


def write(folder, attempt, rank, rows):
    writer = Rows(folder, attempt, rank)
    for each in rows:
        writer.add(each)
    writer.flush()


def test_a_later_attempt_replaces_what_it_did_again(tmp_path):
    # Two ranks come to step 5; the run goes on from step 3 with one.
    for rank in (0, 1):
        write(tmp_path, 1, rank, [row("train", t, t) for t in range(6)])
    write(tmp_path, 1, 0, [row("train", t, t) for t in range(6)] + [row("val", 4, 9)])
    write(tmp_path, 2, 0, [row("train", t, 10 + t) for t in range(3, 8)])
    assert last_attempt(tmp_path) == 2

    frame = merged(tmp_path)
    train = frame[frame["split"] == "train"]
    assert train[["outer_step", "rank", "outer_loss"]].to_numpy().tolist() == [
        [0, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1], [2, 0, 2], [2, 1, 2],
        [3, 0, 13], [4, 0, 14], [5, 0, 15], [6, 0, 16], [7, 0, 17],
    ]  # fmt: skip
    assert frame[frame["split"] == "val"]["outer_loss"].tolist() == [9]
    assert train["ci95"].isna().all()


def test_only_the_last_evaluation_of_a_seed_counts(tmp_path):
    tests = [row("test", 8, n, inner_steps=n) for n in range(3)]
    write(tmp_path, 1, 0, [*tests, row("test", 8, 5, seed=1)])
    write(tmp_path, 2, 0, [row("test", 6, 10 + n, inner_steps=n) for n in range(2)])

    frame = merged(tmp_path)
    assert frame[["seed", "outer_step", "outer_loss"]].to_numpy().tolist() == [
        [0, 6, 10], [0, 6, 11], [1, 8, 5],
    ]  # fmt: skip


def test_many_rows_make_files_of_bounded_size(tmp_path):
    count = ROWS_PER_FILE + 3
    writer = Rows(tmp_path, 1, 0)
    for t in range(count):
        writer.add(row("train", t, t))
        if t == 10:
            writer.flush()
            assert merged(tmp_path)["outer_step"].tolist() == list(range(11))
    writer.flush()
    sizes = [len(pd.read_parquet(path)) for path in sorted(tmp_path.iterdir())]
    assert sizes == [ROWS_PER_FILE, 3]
    assert merged(tmp_path)["outer_step"].tolist() == list(range(count))


def test_metrics_are_columns_wherever_they_occur(tmp_path):
    write(tmp_path, 1, 0, [row("train", 0, 1)])
    write(tmp_path, 1, 1, [row("train", 0, 1, accuracy=0.5)])
    frame = merged(tmp_path)
    assert frame.columns[-1] == "accuracy"
    assert frame["accuracy"].tolist()[1] == 0.5


def test_nothing_yet_is_a_frame_too(tmp_path):
    assert last_attempt(tmp_path / "parts") == 0
    frame = merged(tmp_path / "parts")
    frame.to_parquet(tmp_path / "frame.parquet")
    assert len(pd.read_parquet(tmp_path / "frame.parquet")) == 0
    assert {"seed", "outer_step", "outer_loss"} < set(frame.columns)
