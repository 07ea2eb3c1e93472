"""Rankings, against frames written by hand."""

import numpy as np
import pandas as pd
import pytest

from raymeta.analysis import format_ranking, ranking

NAN, INF = np.nan, np.inf


def row(table, method, task="digits"):
    return table[(table["method"] == method) & (table["task"] == task)].iloc[0]


def test_ranking_against_numbers_worked_out_by_hand(frame):
    table = ranking(frame)
    assert table["method"].tolist() == ["forward", "tpe", "random"]
    forward, tpe, random = (row(table, m) for m in ("forward", "tpe", "random"))
    assert forward["family"] == "hypergradient"
    assert forward["best_outer_loss"] == pytest.approx(0.325)
    assert forward["best_outer_loss_q25"] == pytest.approx(0.2625)
    assert forward["best_outer_loss_q75"] == pytest.approx(0.3875)
    assert forward["test_loss"] == pytest.approx(0.34)
    assert forward["test_accuracy"] == pytest.approx(0.9)
    assert forward["gradient_evals"] == 130
    # targets .3 (seed 0), .4 (seed 1): forward reaches the first at 60, the other never
    assert (forward["reached"], forward["targeted"]) == (1, 2)
    assert forward["evals_to_target"] == INF
    assert forward["seconds_to_target"] == INF
    # tpe meets its own losses at 200 and 100
    assert (tpe["evals_to_target"], tpe["seconds_to_target"]) == (150, 15)
    assert (tpe["reached"], tpe["seeds"], tpe["finished"]) == (2, 2, 2)
    assert (random["reached"], random["failed"], tpe["failed"]) == (0, 1, 0)
    assert set(table["target_method"]) == {"tpe"}
    assert table["target"].tolist() == pytest.approx([0.35] * 3)


def test_the_row_order_of_the_frame_does_not_matter(frame):
    shuffled = frame.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(ranking(frame), ranking(shuffled))


def test_tasks_have_targets_of_their_own(frame):
    harder = frame.assign(task="harder", best_outer_loss=frame["best_outer_loss"] * 2)
    swap = {"tpe": "random", "random": "tpe"}
    harder["method"] = harder["method"].replace(swap)
    table = ranking(pd.concat([harder, frame]))
    assert table["task"].tolist() == ["digits"] * 3 + ["harder"] * 3
    assert row(table, "forward", "harder")["target_method"] == "random"
    assert row(table, "forward", "harder")["target"] == pytest.approx(0.7)
    assert row(table, "forward", "digits")["target_method"] == "tpe"


def test_the_median_over_an_odd_number_of_seeds_ignores_one_that_never_arrives(report):
    rows = [report("tpe", seed, 100, 0.5) for seed in range(3)]
    reached = {0: 10, 1: 30}
    rows += [report("forward", seed, at, 0.4) for seed, at in reached.items()]
    rows += [report("forward", 2, 20, 0.6)]
    forward = row(ranking(pd.DataFrame(rows)), "forward")
    assert (forward["evals_to_target"], forward["reached"]) == (30, 2)


def test_a_failed_trial_counts_once_per_cell(report):
    bad = {"status": "failed", "failure": "loss is not finite"}
    rows = [
        report("tpe", 0, 10, NAN, trial=0, **bad),
        report("tpe", 0, 20, NAN, trial=0, **bad),
        report("tpe", 0, 30, NAN, trial=1, **bad),
        report("tpe", 1, 10, NAN, trial=0, **bad),
    ]
    tpe = row(ranking(pd.DataFrame(rows)), "tpe")
    assert (tpe["failed"], tpe["valued"], tpe["targeted"]) == (3, 0, 0)
    assert np.isnan([tpe["best_outer_loss"], tpe["evals_to_target"]]).all()


def test_an_interrupted_frame_is_ranked_as_far_as_it_goes(report):
    rows = [
        report("tpe", 0, 100, 0.5),
        report("tpe", 1, 40, NAN, status="running"),
        report("forward", 0, 60, 0.4),
        report("forward", 1, 30, 0.4),  # its seed has no target yet
        report("short_term", 1, 5, NAN, status="running"),
    ]
    table = ranking(pd.DataFrame(rows))
    assert table["method"].tolist() == ["forward", "tpe", "short_term"]
    forward, tpe, short = (row(table, m) for m in ("forward", "tpe", "short_term"))
    assert (forward["evals_to_target"], forward["targeted"]) == (60, 1)
    assert (tpe["valued"], tpe["finished"], tpe["seeds"]) == (1, 0, 2)
    assert np.isnan(forward["test_accuracy"])
    assert np.isnan(short["evals_to_target"])
    text = format_ranking(table)
    assert "forward: 2 of 2 seeds unfinished" in text
    assert (
        "tpe: 1 of 2 seeds without a full-horizon value, 2 of 2 seeds unfinished"
        in text
    )
    assert "forward reaches it after 60.00 evaluations: 0.60× what tpe" in text


def test_ranking_refuses_a_frame_without_its_columns(frame):
    with pytest.raises(ValueError, match="misses best_outer_loss"):
        ranking(frame.drop(columns="best_outer_loss"))


def test_text_states_the_target_and_both_ratios(report, final):
    rows = [
        report("tpe", 0, 800, 0.5),
        final("tpe", 0, 1000, 0.5, 0.52, 0.8125),
        report("forward", 0, 200, 0.45),
        final("forward", 0, 300, 0.45, 0.46, 0.9),
    ]
    lines = format_ranking(ranking(pd.DataFrame(rows))).splitlines()
    text = " ".join(line.strip() for line in lines)
    assert (
        "target: in each seed the final loss there of tpe, the best black-box "
        "method (median 0.5000); "
        "tpe itself needed 800 of its 1,000 evaluations" in text
    )
    assert (
        "forward reaches it after 200 evaluations: "
        "0.25× what tpe needed, 0.20× its budget" in text
    )
    (tpe,) = (line for line in lines if line.startswith("  tpe "))
    span = "0.5000\N{EN DASH}0.5000"
    expected = ["tpe", "0.5000", span, "0.5200", "81.25%", "1,000", "800", "80.00"]
    assert tpe.split() == [*expected, "1/1", "0"]
    (forward,) = (line for line in lines if line.startswith("∂ forward"))
    assert forward.split()[-4:] == ["200", "20.00", "1/1", "0"]


def test_text_marks_families_and_judges_hybrids_apart(report):
    rows = [
        report("tpe", 0, 800, 0.5),
        report("forward", 0, 200, 0.45),
        report("restarts", 0, 100, 0.4, family="hybrid"),
    ]
    text = format_ranking(ranking(pd.DataFrame(rows)))
    assert "\n∂ forward " in text
    assert "\n+ restarts " in text
    assert "∂ = hypergradient; + = hybrid" in text
    assert "forward reaches it after 200 evaluations: 0.25×" in text
    assert "restarts reaches it after 100 evaluations: 0.12×" in text


def test_text_says_when_no_hypergradient_method_arrives(frame):
    text = format_ranking(ranking(frame))
    assert (
        "no hypergradient method reaches it in the median seed; most often forward, "
        "in 1 of 2 seeds" in text
    )
    assert text.count("∞") == 4  # evaluations and seconds of forward and random


@pytest.mark.parametrize("family", ["hypergradient", "black-box"])
def test_text_says_which_family_is_missing(frame, family):
    text = format_ranking(ranking(frame[frame["family"] != family]))
    assert f"no {family} method has reported yet" in text
    assert ("target: \N{EN DASH} " in text) == (family == "black-box")


def test_text_of_an_empty_frame_says_so(frame):
    assert format_ranking(ranking(frame.iloc[:0])) == "no report yet"


def test_text_fits_the_terminal_and_names_the_columns_left_out(frame):
    long = frame["method"] + "_with_quite_a_long_name"
    wide = frame.assign(method=long, test_f1=frame["test_accuracy"])
    wide["gradient_evals"] *= 12345.0
    table = ranking(pd.concat([wide, wide.assign(task="other")]))
    text = format_ranking(table)
    assert max(map(len, text.splitlines())) <= 100
    assert "test_f1" in text.split("also in the table: ")[1].splitlines()[0]
    heads = [line for line in text.splitlines() if "medians over seeds" in line]
    assert [head.split(":")[0] for head in heads] == ["digits", "other"]


def test_metrics_of_other_tasks_are_left_out(frame):
    other = frame.assign(task="other", test_accuracy=NAN, test_f1=frame.test_accuracy)
    text = format_ranking(ranking(pd.concat([frame, other], ignore_index=True)))
    own, others = text.split("\n\n")
    assert ("accuracy" in own, " f1 " in own) == (True, False)
    assert ("accuracy" in others, " f1 " in others) == (False, True)


def test_text_needs_no_test_columns(frame):
    bare = frame.drop(columns=["test_loss", "test_accuracy"])
    assert "test" not in format_ranking(ranking(bare))
