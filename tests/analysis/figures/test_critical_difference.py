"""The critical-difference diagram."""

import pandas as pd
import pytest

from raymeta.analysis import draw_ranks, mean_ranks
from raymeta.analysis.figures.critical_difference import draw_mean_ranks, verdict

# Ranks of four classifiers on 14 data sets: their ranks are these again.
DEMSAR = pd.DataFrame(
    {
        "C4.5": [4, 1, 4, 4, 4, 1, 3, 2.5, 4, 2.5, 4, 3, 4, 3],
        "C4.5+m": [3, 2, 1, 1, 2, 2.5, 2, 2.5, 3, 2.5, 2.5, 2, 1, 1],
        "C4.5+cf": [2, 3, 2, 3, 3, 4, 4, 4, 2, 2.5, 1, 4, 2, 4],
        "C4.5+m+cf": [1, 4, 3, 2, 1, 2.5, 1, 1, 1, 2.5, 2.5, 1, 3, 2],
    }
)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([[1.0, 2, 3]], "over 1 task: no test"),
        ([[1.0, 2]] * 5, "no test below two tasks and three methods"),
        ([[1.0, 1, 1]] * 2, "all methods are equal"),
        ([[1.0, 2, 3], [2.0, 1, 3]], "do not differ significantly"),
        ([[1.0, 2, 3]] * 5, "rough below ten tasks"),
    ],
)
def test_the_verdict_admits_what_cannot_be_said(scores, said):
    assert said in verdict(mean_ranks(pd.DataFrame(scores, columns=None)))


def test_the_diagram_has_a_line_per_method_and_a_bar_per_clique():
    axes = draw_mean_ranks(mean_ranks(DEMSAR, level=0.10), level=0.10).axes[0]
    lines = {line.get_gid(): line for line in axes.lines if line.get_gid()}
    for method, rank in mean_ranks(DEMSAR).mean.items():
        assert lines[f"rank {method}"].get_xdata()[0] == rank
    bars = [gid for gid in lines if gid.startswith("clique ")]
    assert bars == ["clique C4.5+m+cf C4.5+m C4.5+cf", "clique C4.5+cf C4.5"]
    reach = lines["critical difference"].get_xdata()
    assert reach[1] - reach[0] == pytest.approx(1.118, abs=1e-3)


def test_the_diagram_of_a_frame_keeps_to_its_methods(frame):
    both = pd.concat([frame, frame.assign(task="other")])
    axes = draw_ranks(both).axes[0]
    drawn = [g for g in (line.get_gid() for line in axes.lines) if g and "rank" in g]
    assert drawn == ["rank forward", "rank tpe", "rank random"]
    (note,) = draw_ranks(frame[frame["method"] == "tpe"]).axes[0].texts
    assert "two methods" in note.get_text()
