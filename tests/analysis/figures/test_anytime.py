"""Figures of the best loss so far."""

import numpy as np
import pandas as pd
import pytest

from raymeta.analysis import anytime, draw_anytime
from raymeta.analysis.figures.anytime import y_range
from raymeta.analysis.figures.style import OTHERS
from tests.support.drawn import line

NAN = np.nan


def drawn(axes):
    """Return the median lines of a panel by method."""
    return {
        artist.get_gid().removeprefix("median "): artist
        for artist in axes.lines
        if (artist.get_gid() or "").startswith("median ")
    }


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
