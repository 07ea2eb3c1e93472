"""Figures of where hyperparameters went."""

import numpy as np
import pandas as pd
import pytest

from raymeta.analysis import draw_trajectories, hparam_paths
from raymeta.analysis.figures.trajectories import y_range
from tests.support.drawn import many, path


def test_the_figure_shows_all_walks_and_one_incumbent_a_method(frame):
    table = hparam_paths(frame, "digits")
    (axes,) = draw_trajectories(frame, "digits").axes
    lines = {line.get_gid(): line for line in axes.lines}
    bold = table[table["representative"]].drop_duplicates("method")
    seeds = dict(zip(bold["method"], bold["seed"], strict=True))
    assert set(lines) == {
        "forward seed 0 trial 0",
        "forward seed 1 trial 0",
        f"random seed {seeds['random']} trial -1",
        f"tpe seed {seeds['tpe']} trial -1",
    }
    for gid, line in lines.items():
        method, _, seed = gid.split()[:3]
        expected = path(table, method, int(seed))
        np.testing.assert_array_equal(line.get_xydata(), expected)
        dashed = method != "forward"
        assert (line.get_linestyle() == "--") == dashed
        assert (line.get_drawstyle() == "steps-post") == dashed
    widths = [lines[f"forward seed {seed} trial 0"].get_linewidth() for seed in (0, 1)]
    assert widths[0] > 2 * widths[1]


def test_the_figure_has_a_panel_per_hyperparameter_and_one_legend(frame):
    frame = many(frame.assign(**{"hp/momentum": 0.9}))
    figure = draw_trajectories(frame, "digits")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:2] == ["lr", "momentum"]
    assert titles[2].startswith("rate: median, ")
    assert titles[2].endswith(" of 13")
    assert len(figure.axes[2].lines) == len(figure.axes[2].collections) == 3
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["forward", "random", "tpe"]
    assert figure.get_suptitle() == "digits"
    assert {axes.get_xlabel() for axes in figure.axes} == {"gradient evaluations"}


# values: .01 to 2; narrower than a decade; not positive
@pytest.mark.parametrize(
    ("offset", "scale"), [(0.0, "log"), (1.0, "linear"), (-0.02, "linear")]
)
def test_positive_values_over_more_than_a_decade_get_a_log_axis(frame, offset, scale):
    frame["hp/lr"] = frame["hp/lr"] + offset
    (axes,) = draw_trajectories(frame, "digits").axes
    assert axes.get_yscale() == scale


# Values from .01 to 1 are in sight, or those over 2.1.
@pytest.mark.parametrize(
    ("kind", "over", "scale"),
    [
        ("Positive", 1.0, "log"),
        ("Real", 1.0, "linear"),
        ("Unit", 2.1, "logit"),
    ],
)
def test_an_axis_is_that_in_which_its_domain_is_walked(frame, kind, over, scale):
    frame["hp/lr"] = frame["hp/lr"] / over
    (axes,) = draw_trajectories(frame, "digits", {"lr": kind}).axes
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    assert low < 0.01 / over < 1 / over < high
    assert len([tick for tick in axes.get_yticks() if low <= tick <= high]) > 1


def test_a_unit_at_its_ends_stays_on_the_axis(frame):
    frame["hp/lr"] = np.where(frame["hp/lr"] > 0.4, 1.0, 0.0)
    (axes,) = draw_trajectories(frame, "digits", {"lr": "Unit"}).axes
    low, high = axes.get_ylim()
    assert 0 < low < 1e-4 < 1 - 1e-4 < high < 1


def test_choices_among_numbers_are_named(frame):
    frame["hp/width"] = np.where(frame["hp/lr"] > 0.05, 128, 32)
    axes = draw_trajectories(frame, "digits", {"width": "Choice"}).axes[1]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["32", "128"]


def test_hybrids_go_from_best_run_to_best_run(report):
    ends = [(100, 0.5, 0.1), (200, 0.6, 0.4), (300, 0.2, 0.3)]
    rows = [
        report("restarts", 0, at, loss, family="hybrid", **{"hp/lr": lr})
        for at, loss, lr in ends
    ]
    figure = draw_trajectories(pd.DataFrame(rows), "digits")
    (line,) = figure.axes[0].lines
    assert line.get_xydata().tolist() == [[100, 0.1], [300, 0.3], [300, 0.3]]
    assert line.get_drawstyle() == "steps-post"
    (legend,) = figure.legends
    assert "dash-dotted" in legend.get_title().get_text()


def test_of_many_methods_the_best_are_drawn(report):
    rows = [report(f"m{i:02}", 0, 10, 1.0 + i, **{"hp/lr": 0.1 + i}) for i in range(12)]
    figure = draw_trajectories(pd.DataFrame(rows), "digits")
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [f"m{i:02}" for i in range(10)]
    assert "10 of 12 methods" in " ".join(legend.get_title().get_text().split())


def test_the_first_random_incumbents_do_not_set_the_limits():
    rows = [
        ("black-box", "tpe", 0, 1, 1e6, True),
        ("black-box", "tpe", 0, 5, 1e3, True),
        ("black-box", "tpe", 0, 10, 7.0, True),  # stands at 15
        ("black-box", "tpe", 0, 40, 2.0, True),
        ("hypergradient", "forward", 0, 10, 0.5, True),
        ("hypergradient", "forward", 0, 90, 3.0, True),
    ]
    columns = ["family", "method", "seed", "gradient_evals", "value", "representative"]
    assert y_range(pd.DataFrame(rows, columns=columns), 100) == (0.5, 7.0)


def test_a_task_without_hyperparameters_says_so(frame):
    bare = frame.drop(columns="hp/lr")
    assert len(hparam_paths(bare, "digits")) == 0
    (axes,) = draw_trajectories(bare, "digits").axes
    assert [t.get_text() for t in axes.texts] == ["no hyperparameter was reported"]


def test_hyperparameters_of_other_tasks_have_no_panel(frame):
    other = frame.assign(task="other").rename(columns={"hp/lr": "hp/weight"})
    figure = draw_trajectories(pd.concat([frame, other]), "other")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["weight"]


def test_tuning_free_runs_have_no_trajectory(report):
    frame = pd.DataFrame(
        [
            report("tpe", 0, 100, 0.4, **{"hp/lr": 0.1}),
            report("adamw_wsd", 0, 60, 0.5, family="tuning-free", **{"hp/lr": 0.2}),
        ]
    )
    figure = draw_trajectories(frame, frame["task"].iloc[0])
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "tpe" in said
    assert "adamw_wsd" not in said
