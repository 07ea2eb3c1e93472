import numpy as np
import pandas as pd
import pytest

from raymeta.analysis import anytime, draw_anytime
from raymeta.analysis.figures.anytime import GRID, y_range
from raymeta.analysis.figures.style import OTHERS

NAN = np.nan


def line(table, method, task="digits"):
    chosen = table[(table["method"] == method) & (table["task"] == task)]
    return chosen.set_index("x")[["median", "q25", "q75"]]


def drawn(axes):
    """Return the median lines of a panel by method."""
    return {
        artist.get_gid().removeprefix("median "): artist
        for artist in axes.lines
        if (artist.get_gid() or "").startswith("median ")
    }


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
    forward = line(anytime(frame), "forward")  # its cells end at 130
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


@pytest.mark.parametrize(
    ("x", "unit"), [("gradient_evals", "gradient evaluations"), ("wall_s", "seconds")]
)
def test_the_figure_shows_the_data(frame, x, unit):
    both = pd.concat([frame, frame.assign(task="other")])
    figure, table = draw_anytime(both, x), anytime(both, x)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["digits", "other"]
    for axes in figure.axes:
        assert axes.get_xlabel() == unit
        assert axes.get_ylabel().startswith("best validation loss")
        lines = drawn(axes)
        assert set(lines) == {"forward", "random", "tpe"}
        for method, artist in lines.items():
            expected = line(table, method)
            np.testing.assert_array_equal(artist.get_xdata(), expected.index)
            np.testing.assert_array_equal(artist.get_ydata(), expected["median"])
            assert artist.get_drawstyle() == "steps-post"
        assert lines["forward"].get_linestyle() == "-"
        assert lines["tpe"].get_linestyle() == lines["random"].get_linestyle() == "--"
        assert len(axes.collections) == 3  # bands
        assert {text.get_text() for text in axes.texts} == set(lines)


def test_the_target_is_marked_at_its_median(frame):
    (axes,) = draw_anytime(frame).axes
    (target,) = (a for a in axes.lines if a.get_gid() == "target")
    np.testing.assert_allclose(target.get_ydata(), 0.35)
    assert axes.get_title(loc="right") == "dotted: 0.35, median final loss of tpe"


def test_without_black_box_methods_there_is_no_target(frame):
    (axes,) = draw_anytime(frame[frame["family"] == "hypergradient"]).axes
    assert [artist.get_gid() for artist in axes.lines] == ["median forward"]
    assert axes.get_title(loc="right") == ""


def test_a_panel_says_which_methods_have_no_value(frame, report):
    silent = pd.DataFrame([report("asha", 0, 10, NAN, status="running")])
    (axes,) = draw_anytime(pd.concat([frame, silent])).axes
    unit, said = axes.get_xlabel().split("\n")
    assert (unit, said) == (
        "gradient evaluations",
        "no value in half of its seeds: asha",
    )
    (alone,) = draw_anytime(silent).axes
    assert [t.get_text() for t in alone.texts] == [
        "no value in half of its seeds: asha"
    ]
    assert not alone.lines


def test_an_interrupted_line_ends_in_a_cross(frame):
    final = (frame["method"] == "forward") & (frame["status"] == "final")
    figure = draw_anytime(frame[~final])
    (cross,) = (a for a in figure.axes[0].lines if a.get_gid() == "stop")
    np.testing.assert_allclose(cross.get_xydata(), [[120, 0.325]])
    assert "cross: interrupted" in figure.get_supxlabel()
    assert "cross" not in draw_anytime(frame).get_supxlabel()


def curve(method, points):
    table = pd.DataFrame(points, columns=["x", "median"])
    return table.assign(method=method, q25=table["median"], q75=table["median"])


def crowd(report, final, count=9):
    """Black-box methods that end at .1, .2, …, a descent at .15, a hybrid at 5."""
    ends = {f"search_{i}": (0.1 * (i + 1), "black-box") for i in range(count)}
    ends |= {"forward": (0.15, "hypergradient"), "tpe_descent": (5.0, "hybrid")}
    rows = []
    for method, (end, family) in ends.items():
        rows.append(report(method, 0, 10, 10.0, family=family))
        rows.append(report(method, 0, 30, end, family=family))
        rows.append(final(method, 0, 100, end, NAN, NAN, family=family))
    return pd.DataFrame(rows)


def test_of_many_methods_the_best_of_each_family_are_named(report, final):
    figure = draw_anytime(crowd(report, final))
    (axes,) = figure.axes
    lines = {line.get_gid(): line for line in axes.lines}
    named = {text.get_text().removesuffix(" ↑") for text in axes.texts}
    assert named == {"forward", "tpe_descent", *(f"search_{i}" for i in range(8))}
    assert "other search_8" in lines  # the worst: drawn, and not named
    assert lines["other search_8"].get_color() == OTHERS
    assert "grey: the other methods" in figure.get_supxlabel()
    (ten,) = draw_anytime(crowd(report, final, count=8)).axes
    assert not any(line.get_gid().startswith("other") for line in ten.lines)


def test_families_have_line_styles_of_their_own(report, final):
    figure = draw_anytime(crowd(report, final, count=3))
    (axes,) = figure.axes
    lines = drawn(axes)
    of = {name: lines[name]._dash_pattern for name in lines}
    assert of["forward"] == (0, None)
    assert of["search_0"] == of["search_1"]
    assert len(of["tpe_descent"][1]) == 4  # a dash and a dot
    for key in ("solid: hyperg", "dash-dotted: hybrids", "dashed: black-box"):
        assert key in figure.get_supxlabel()


def test_a_cut_axis_says_so_and_names_stay_beside_it(report, final):
    (axes,) = draw_anytime(crowd(report, final, count=3)).axes
    top = axes.get_ylim()[1]
    assert 0.3 < top < 1.0  # all ends but the hybrid's are in sight
    cut = float(axes.get_ylabel().removeprefix("best validation loss, cut above "))
    assert cut == pytest.approx(top, rel=0.1)
    assert "tpe_descent ↑" in [text.get_text() for text in axes.texts]


def test_an_awful_start_does_not_set_the_limits():
    awful = [(1, 1e6), (3, 1e3), (10, 0.6), (50, 0.5), (100, 0.4)]
    low, high = y_range(curve("tpe", awful))
    assert low == 0.4
    assert 0.4 < high <= 0.6


def test_every_end_is_in_sight_unless_it_is_out_of_all_proportion():
    good = [(1, 0.5), (100, 0.4)]
    ends = pd.concat([curve("tpe", good), curve("bad", [(1, 3.0), (100, 3.0)])])
    assert y_range(ends)[1] >= 3.0
    lost = pd.concat([curve("tpe", good), curve("lost", [(1, 1e4), (100, 1e4)])])
    assert y_range(lost)[1] <= 0.5


def test_the_target_is_in_sight():
    assert y_range(curve("tpe", [(1, 0.5), (100, 0.4)]), goal=0.1)[0] == 0.1


def test_losses_of_several_decades_get_a_log_axis(report, final):
    rows = []
    for method, scale in {"tpe": 1.0, "forward": 0.02}.items():
        rows += [report(method, 0, 10, scale), final(method, 0, 100, scale, 1.0, 0.5)]
    (axes,) = draw_anytime(pd.DataFrame(rows)).axes
    assert axes.get_yscale() == "log"
    low, high = axes.get_ylim()
    assert low < 0.02 < 1.0 < high
    rows[-1] |= {"best_outer_loss": -1.0}  # no logarithm of a negative loss
    assert draw_anytime(pd.DataFrame(rows)).axes[0].get_yscale() == "linear"
