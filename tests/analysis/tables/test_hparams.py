"""Where hyperparameters went, against frames written by hand."""

import numpy as np
import pandas as pd
import pytest

from raymeta.analysis import draw_trajectories, hparam_bands, hparam_paths
from raymeta.analysis.tables.hparams import MANY
from tests.support.drawn import many, path

NAN = np.nan


def test_paths_of_hypergradient_methods_are_their_reports_in_order(frame):
    table = hparam_paths(frame, "digits")
    assert path(table, "forward", 0) == [[60, 0.01], [120, 0.03]]
    assert path(table, "forward", 1) == [[60, 0.02], [120, 0.04]]


def test_paths_of_black_box_methods_are_incumbents_held_to_the_end(frame):
    table = hparam_paths(frame, "digits")
    assert path(table, "tpe", 0) == [[100, 1.0], [200, 0.1], [200, 0.1]]
    assert path(table, "tpe", 1) == [[100, 2.0], [200, 2.0]]
    assert path(table, "random", 1) == [[150, 0.7], [200, 0.7]]


def test_the_representative_is_the_seed_nearest_to_the_median_loss(report):
    losses = {0: 0.9, 1: 0.5, 2: 0.1, 3: NAN, 4: 0.6}  # the missing one ranks last: .6
    rows = [
        report("forward", seed, 10, loss, **{"hp/lr": 0.1 * (seed + 1)})
        for seed, loss in losses.items()
    ]
    table = hparam_paths(pd.DataFrame(rows), "digits")
    bold = table.set_index("seed")["representative"]
    assert bold[bold].index.tolist() == [4]


def test_among_restarts_the_one_with_the_best_loss_is_representative(report):
    rows = [
        report("forward", 0, 10, 0.5, trial=0, **{"hp/lr": 0.1}),
        report("forward", 0, 20, 0.2, trial=1, **{"hp/lr": 0.2}),
        report("forward", 0, 30, 0.2, trial=2, outer_loss=0.4, **{"hp/lr": 0.3}),
    ]
    table = hparam_paths(pd.DataFrame(rows), "digits")
    assert table.loc[table["representative"], "trial"].tolist() == [1]
    (axes,) = draw_trajectories(pd.DataFrame(rows), "digits").axes
    assert len(axes.lines) == 3


def test_choices_become_positions_and_names(frame):
    frame["hp/rule"] = np.where(frame["hp/lr"] > 0.05, "sgd", "adam")
    frame.loc[frame["hp/lr"].isna(), "hp/rule"] = None
    table = hparam_paths(frame, "digits")
    table = table[table["hyperparameter"] == "rule"]
    names = dict(zip(table["value"], table["choice"], strict=True))
    assert names == {0.0: "adam", 1.0: "sgd"}
    axes = draw_trajectories(frame, "digits").axes[1]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["adam", "sgd"]
    assert [int(tick) for tick in axes.get_yticks()] == [0, 1]


def test_single_and_many_hyperparameters_part_ways(frame):
    just = many(frame, MANY)
    assert hparam_paths(just, "digits")["hyperparameter"].nunique() == MANY + 1
    assert len(hparam_bands(just, "digits")) == 0
    more = many(frame)
    assert set(hparam_paths(more, "digits")["hyperparameter"]) == {"lr"}
    assert set(hparam_bands(more, "digits")["hyperparameter"]) == {"rate"}


def test_bands_are_quantiles_over_the_entries_of_the_representative(frame):
    table = hparam_bands(many(frame), "digits")
    forward = table[table["method"] == "forward"]
    assert set(table["entries"]) == {13}
    assert set(forward["seed"]) == {0}  # both are as near to the median: the first
    expected = np.outer([0.01, 0.03], np.quantile(np.arange(1, 14), [0.1, 0.5, 0.9]))
    quantiles = forward[["q10", "median", "q90"]].to_numpy()
    np.testing.assert_allclose(quantiles, expected)


def test_many_choices_are_refused(frame):
    frame = many(frame)
    frame["hp/rate[0]"] = "fast"
    with pytest.raises(ValueError, match=r"hp/rate\[0\] holds 'fast': drop"):
        hparam_bands(frame, "digits")


@pytest.mark.parametrize("function", [hparam_paths, hparam_bands, draw_trajectories])
def test_an_unknown_task_is_refused(frame, function):
    with pytest.raises(ValueError, match="got 'mnist': pass one of digits"):
        function(frame, "mnist")


def test_an_interrupted_cell_without_any_value_still_walks(report):
    hp = {"hp/lr": 0.1}
    rows = [report("forward", 0, 10, NAN, status="running", **hp)]
    rows += [report("tpe", 0, 10, NAN, status="running", **hp)]
    (axes,) = draw_trajectories(pd.DataFrame(rows), "digits").axes
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), [[10, 0.1]])
    assert line.get_marker() == "."  # a line of one point would not be seen
