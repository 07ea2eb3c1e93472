"""Figures and the table of a meta-training run, from frames written by hand."""

import math

import pytest

from raymeta.analysis import (
    format_evaluation,
    held_out,
    training_curve,
)


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


def test_what_one_rank_or_seed_does_not_know_is_no_number(training):
    one = (training["seed"] == 1) & (training["rank"] == 0)
    training.loc[one & training["outer_step"].between(4, 7), "outer_loss"] = math.nan
    curve = training_curve(training)
    assert curve.iloc[1, 0] == 5.5
    assert curve.iloc[1, 1:].isna().all()
    assert curve.drop(index=1).notna().all(axis=None)
    at = one & (training["split"] == "test") & (training["inner_steps"] == 1)
    training.loc[at, "outer_loss"] = math.nan
    mean = held_out(training, "test")["mean"]
    assert mean.isna().tolist() == [False, True, False]


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


def test_the_table_has_a_line_per_number_of_inner_steps(training, published):
    lines = format_evaluation(training, [published]).splitlines()
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
