"""Figures and the table of a meta-training run, from frames written by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from raymeta.analysis import (
    draw_meta_loss,
    draw_pictures,
    format_evaluation,
    held_out,
    is_training,
    read_published,
    read_training,
    training_curve,
    write_training_figures,
)

NAN = math.nan
FIGURE = {
    "value": 1.4,
    "ci95": 0.2,
    "inner_steps": 1,
    "outer_steps": 5_000,
    "source": "Someone 2019, table 1",
}


def row(split, outer_step, outer_loss, **changes):
    usual = {
        "algorithm": "maml",
        "family": "sinusoid",
        "seed": 0,
        "split": split,
        "outer_step": outer_step,
        "rank": 0,
        "workers": 2,
        "attempt": 1,
        "tasks": 100,
        "inner_steps": 1,
        "outer_loss": outer_loss,
        "ci95": NAN if split == "train" else 0.3,
        "median": NAN if split == "train" else outer_loss / 2,
        "grad_norm": NAN,
        "skipped": False,
        "step_s": 0.1,
        "wall_s": 1.0,
        "accuracy": 0.5,
        "accuracy_ci95": NAN if split == "train" else 0.02,
    }
    return usual | changes


@pytest.fixture
def training():
    """Two seeds, two ranks of 1 and 3 tasks, 200 steps; the loss of step t is t."""
    rows = [
        row("train", t, t + 100 * seed, seed=seed, rank=rank, tasks=tasks)
        for t in range(200)
        for seed in (0, 1)
        for rank, tasks in ((0, 1), (1, 3))
    ]
    rows[4:8] = [r | {"skipped": True, "outer_loss": math.inf} for r in rows[4:8]]
    for seed, loss in ((0, 2.0), (1, 4.0)):
        rows += [row("val", t, loss, seed=seed) for t in (0, 200)]
        rows += [
            row("test", 200, loss / (1 + n), seed=seed, inner_steps=n, ci95=0.3 + seed)
            for n in range(3)
        ]
    return pd.DataFrame(rows)


def test_the_training_curve_averages_over_steps_tasks_and_seeds(training):
    curve = training_curve(training)

    assert len(curve) == 50
    assert curve["outer_step"].tolist()[1:] == [4 * k + 1.5 for k in range(1, 50)]
    # Step 1 was skipped; of the other ones, none.
    mean = (0 + 2 + 3) / 3
    assert curve.iloc[0].tolist() == pytest.approx([1.5, 50 + mean, mean, 100 + mean])
    assert curve.iloc[1].tolist() == [5.5, 55.5, 5.5, 105.5]

    lopsided = training[(training["seed"] == 0)].copy()
    lopsided.loc[lopsided["rank"] == 1, "outer_loss"] += 4
    assert training_curve(lopsided).iloc[1].tolist() == [5.5, 8.5, 5.5, 9.5]


def test_held_out_losses_are_averaged_over_seeds(training):
    test = held_out(training, "test")
    assert test["inner_steps"].tolist() == [0, 1, 2]
    assert test["mean"].tolist() == pytest.approx([3.0, 1.5, 1.0])
    assert test["ci95"].tolist() == pytest.approx([math.hypot(0.3, 1.3) / 2] * 3)
    assert test["median"].tolist() == pytest.approx([1.5, 0.75, 0.5])
    accuracy = held_out(training, "test", "accuracy")
    assert accuracy["mean"].tolist() == [0.5] * 3
    assert accuracy["ci95"].tolist() == pytest.approx([math.hypot(0.02, 0.02) / 2] * 3)
    val = held_out(training, "val")
    assert val["outer_step"].tolist() == [0, 200]
    assert val["mean"].tolist() == [3.0, 3.0]


def test_the_table_has_a_line_per_number_of_inner_steps(training):
    lines = format_evaluation(training, [FIGURE]).splitlines()
    assert lines[0] == (
        "maml on sinusoid: 100 test tasks, 2 seeds; mean and 95 % interval"
    )
    names = lines[1].split()
    assert names == [
        "inner",
        "steps",
        "loss",
        "±",
        "median",
        "accuracy",
        "±",
        "of",
        "accuracy",
    ]
    assert [line.split()[0] for line in lines[2:5]] == ["0", "1", "2"]
    assert lines[3].split() == ["1", "1.500", "0.6671", "0.7500", "0.5000", "0.01414"]
    assert lines[5] == (
        "published: 1.4 ± 0.2 after 1 step (Someone 2019, table 1; 5,000 outer steps)"
    )
    assert lines[6] == "2 outer updates were skipped: not finite"

    early = training[training["split"] == "train"]
    assert format_evaluation(early) == "no evaluation on test tasks yet"


def test_the_loss_figure(training):
    left, right, below, beside = draw_meta_loss(training).axes
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert names == ["training tasks", "validation tasks"]
    assert left.lines[0].get_xydata()[1].tolist() == [5.5, 55.5]
    (points, *_), *_ = (c.lines for c in right.containers)
    assert points.get_ydata().tolist() == pytest.approx([3.0, 1.5, 1.0])
    (median,) = [line for line in right.lines if line.get_label() == "median"]
    (trained,) = [line for line in right.lines if line.get_linestyle() == ":"]
    assert median.get_ydata().tolist() == pytest.approx([1.5, 0.75, 0.5])
    assert trained.get_xdata() == [1, 1]
    assert below.get_ylabel() == "accuracy"
    assert below.lines[0].get_ydata().tolist() == [0.5] * 50
    assert beside.lines[0].get_ydata().tolist() == [0.5] * 3


def test_a_published_figure_is_drawn_beside_the_losses(training):
    left, right, *metric = draw_meta_loss(training, [FIGURE]).axes
    (line,) = [line for line in left.lines if line.get_linestyle() == "--"]
    assert line.get_ydata() == [1.4, 1.4]
    (band,) = left.patches
    assert (band.get_y(), band.get_height()) == pytest.approx((1.2, 0.4))
    assert line.get_label() == (
        "Someone 2019, table 1:\n1.4 ± 0.2 after 5,000 outer steps"
    )
    (mark,) = [line for line in right.lines if line.get_marker() == "D"]
    assert mark.get_xydata().tolist() == [[1, 1.4]]
    assert not any(axes.patches for axes in metric)


def test_tasks_that_diverge_do_not_flatten_the_figure(training):
    is_last = (training["split"] == "test") & (training["inner_steps"] == 2)
    training.loc[is_last, "outer_loss"] = 1e9
    right = draw_meta_loss(training).axes[1]
    assert right.get_ylim()[1] < 10
    assert right.get_title(loc="right") == "the mean leaves the panel: tasks diverge"


def test_a_run_that_has_just_begun_is_drawn(training):
    for frame in (training.iloc[:0], training.iloc[:4]):
        left, right, *_ = draw_meta_loss(frame).axes
        assert [t.get_text() for t in right.texts] == ["not evaluated yet"]
        assert len(left.lines) == bool(len(frame))


def sinusoids():
    return {
        "kind": np.array("sinusoids"),
        "x": np.linspace(-5, 5, 11),
        "truth": np.ones((4, 11)),
        "support_x": np.zeros((4, 3)),
        "support_y": np.full((4, 3), 2.0),
        "steps": np.array([0, 1]),
        "fitted": np.stack([np.zeros((4, 11)), np.full((4, 11), 0.5)]),
    }


def dataset():
    return {
        "kind": np.array("dataset"),
        "first": np.array([[1.0, 2.0], [-1.0, 0.0]]),
        "points": np.array([[0.5, 0.0], [-0.5, 0.0]]),
        "labels": np.array([0, 1]),
        "steps": np.array([0, 3]),
        "w": np.array([[[2.0, 0.0]], [[0.0, 1.0]]]),
        "b": np.array([[-0.5], [0.1]]),
    }


def reconstructions():
    truth = np.full((2, 4, 4, 3), 0.5)
    return {
        "kind": np.array("reconstructions"),
        "truth": truth,
        "steps": np.array([0, 3]),
        "fitted": np.stack([truth + 0.1, truth + 0.01]),
    }


def images():
    return {
        "kind": np.array("images"),
        "images": np.zeros((10, 8, 8)) + np.arange(10)[:, None, None],
        "labels": np.arange(10),
    }


def test_sinusoids_before_and_after():
    axes = draw_pictures(sinusoids()).axes
    assert len(axes) == 4
    truth, before, after, support = (line.get_ydata() for line in axes[0].lines)
    assert (truth[0], before[0], after[0], support[0]) == (1, 0, 0.5, 2)
    labels = [line.get_label() for line in axes[0].lines]
    assert labels == ["true curve", "before adaptation", "after 1 step", "support"]


def test_the_lines_of_classifiers_are_where_they_decide():
    first, before, after = draw_pictures(dataset()).axes
    assert not first.lines
    assert first.collections[0].get_offsets().tolist() == [[1.0, 2.0]]
    assert after.collections[1].get_offsets().tolist() == [[-0.5, 0.0]]
    assert before.lines[0].get_xdata() == pytest.approx([0.25, 0.25])  # 2x - .5 = 0
    assert after.lines[0].get_ydata() == pytest.approx([-0.1, -0.1])
    assert after.get_title(loc="left") == "learnt, after 3 steps"


def test_reconstructions_say_their_error_in_decibel():
    axes = draw_pictures(reconstructions()).axes
    assert len(axes) == 6
    assert [a.get_xlabel() for a in axes[:3]] == ["", "20.0 dB", "40.0 dB"]


def test_images_carry_their_class():
    axes = draw_pictures(images()).axes
    assert [a.get_title(loc="left") for a in axes] == list("0123456789")


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="but got 'poems'"):
        draw_pictures({"kind": np.array("poems")})


def test_all_figures_of_a_folder(training, tmp_path):
    assert not is_training(tmp_path)
    (tmp_path / "training.json").write_text(json.dumps({"published": [FIGURE]}))
    assert is_training(tmp_path)
    with pytest.raises(ValueError, match=r"frame.parquet does not exist"):
        read_training(tmp_path)
    training.to_parquet(tmp_path / "frame.parquet")
    assert read_published(tmp_path) == [FIGURE]
    (tmp_path / "seed-1").mkdir()
    np.savez(tmp_path / "seed-1" / "pictures.npz", **images())

    files = write_training_figures(read_training(tmp_path), tmp_path)

    assert [path.name for path in files] == [
        "meta_loss.png", "meta_loss.svg", "learnt_seed_1.png", "learnt_seed_1.svg",
    ]  # fmt: skip
    assert all(path.stat().st_size > 5000 for path in files)

    training.drop(columns="split").to_parquet(tmp_path / "frame.parquet")
    with pytest.raises(ValueError, match="lacks split: it is no training's frame"):
        read_training(tmp_path)
