"""Anytime curves, against frames written by hand."""

import numpy as np
import pandas as pd
import pytest

from raymeta.analysis import anytime
from raymeta.analysis.tables.anytime import GRID
from tests.support.drawn import line

NAN = np.nan


def test_medians_and_quartiles_over_two_seeds(frame):
    table = anytime(frame)
    forward = line(table, "forward")
    # seed 0: .3 from 60, .2 from 120; seed 1: .8 from 60, .45 from 120
    assert forward.loc[60].tolist() == pytest.approx([0.55, 0.425, 0.675])
    assert forward.loc[120].tolist() == pytest.approx([0.325, 0.2625, 0.3875])
    assert forward.loc[100].tolist() == forward.loc[60].tolist()
    assert set(table["family"]) == {"hypergradient", "black-box"}


def test_all_methods_of_a_task_share_one_grid(frame):
    table = anytime(frame)
    grid = {60, 100, 120, 130, 150, 200}  # improvements and ends
    assert set(table["x"]) == grid
    assert set(line(table, "forward").index) == grid
    assert set(line(table, "tpe").index) == {x for x in grid if x >= 100}


def test_a_finished_cell_keeps_its_value_to_the_end(frame):
    forward = line(anytime(frame), "forward")  # its studies end at 130
    assert forward.index[-1] == 200
    assert forward.loc[200, "median"] == pytest.approx(0.325)


def test_a_line_starts_where_half_of_the_seeds_have_a_value(report):
    starts = {0: (10, 0.5), 1: (20, 0.9), 2: (30, 0.1)}
    rows = [report("tpe", s, at, best) for s, (at, best) in starts.items()]
    rows += [report("tpe", s, 40, best) for s, (_, best) in starts.items()]
    tpe = line(anytime(pd.DataFrame(rows)), "tpe")
    assert tpe.index[0] == 20  # two of three
    # the seed without a value ranks last, so the median does not start at .7
    assert tpe["median"].tolist() == [0.9, 0.5, 0.5]
    assert tpe["q75"].iloc[0] == 0.9  # between .9 and the missing one


def test_a_quartile_that_no_seed_has_reached_is_missing(report):
    rows = [report("tpe", seed, 40, 0.5) for seed in range(3)]
    rows += [report("tpe", seed, 40, NAN, status="running") for seed in (3, 4)]
    tpe = line(anytime(pd.DataFrame(rows)), "tpe")
    np.testing.assert_array_equal(tpe.to_numpy(), [[0.5, 0.5, NAN]])


def test_the_median_never_rises_over_an_odd_number_of_seeds(report):
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(5):
        spent = rng.uniform(0, 100, size=20)
        rows += [report("tpe", seed, x, rng.exponential()) for x in spent]
        rows.append(report("tpe", seed, 100, NAN, status="final"))
    tpe = line(anytime(pd.DataFrame(rows)), "tpe")
    assert len(tpe) > 10
    assert (np.diff(tpe["median"]) <= 0).all()


def test_an_interrupted_method_stops_where_half_of_its_seeds_still_report(
    report, final
):
    rows = [
        report("tpe", 0, 10, 0.5),
        report("tpe", 0, 30, 0.5),
        report("tpe", 1, 10, 0.7),
        report("tpe", 1, 70, 0.7),
        report("tpe", 2, 10, 0.9),
        report("tpe", 2, 80, 0.9),
        final("random", 0, 100, 0.5, NAN, NAN),
    ]
    tpe = line(anytime(pd.DataFrame(rows)), "tpe")
    assert tpe.index.tolist() == [10, 30, 70]
    assert tpe["median"].tolist() == [0.7] * 3


def test_methods_without_values_have_no_line(report):
    rows = [report("tpe", 0, 10, 0.5), report("random", 0, 10, NAN, status="failed")]
    assert anytime(pd.DataFrame(rows))["method"].unique().tolist() == ["tpe"]


def test_the_empty_frame_has_no_curves(frame):
    assert len(anytime(frame.iloc[:0])) == 0


def test_seconds_are_an_axis_too(frame):
    forward = line(anytime(frame, "wall_s"), "forward")
    assert forward.loc[6.0, "median"] == pytest.approx(0.55)


def test_a_large_grid_is_thinned_and_its_values_stay_exact(report):
    losses = 1 / np.arange(1, 3 * GRID)
    rows = [report("tpe", 0, i + 1, loss) for i, loss in enumerate(losses)]
    tpe = line(anytime(pd.DataFrame(rows)), "tpe")
    assert len(tpe) == GRID
    assert (tpe.index[0], tpe.index[-1]) == (1, len(losses))
    np.testing.assert_allclose(tpe["median"], losses[tpe.index.astype(int) - 1])


def test_another_axis_is_refused(frame):
    with pytest.raises(ValueError, match="got 'inner_steps': pass one of gradient_ev"):
        anytime(frame, "inner_steps")
