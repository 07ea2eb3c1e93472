"""The table of all tasks, from frames whose numbers are known."""

import math

import pandas as pd
import pytest

from jobs.experiments import compare_all
from raymeta.results.run_folder import write_frame

FAMILIES = {"tpe": "black-box", "random": "black-box", "restarts": "hybrid"}


def study(task, method, seed, losses):
    """A study that ends a run every 10 evaluations."""
    best = math.inf
    rows = []
    for number, loss in enumerate(losses):
        best = min(best, loss)
        rows.append(
            {
                **{"task": task, "method": method, "seed": seed, "trial": number},
                "family": FAMILIES.get(method, "hypergradient"),
                **{"outer_step": number + 1, "inner_steps": 9},
                **{"gradient_evals": 10.0 * (number + 1), "wall_s": 1.0 * number},
                **{"outer_loss": loss, "best_outer_loss": best},
                **{"status": "complete", "failure": ""},
            }
        )
    return rows


@pytest.fixture
def frame():
    rows = []
    for seed in range(3):
        rows += study("few", "random", seed, [5.0, 4.0, 3.9])
        rows += study("few", "tpe", seed, [5.0, 4.0, 3.0, 3.0, 2.0])  # after 50
        rows += study("few", "long_term", seed, [5.0, 1.0 + seed, 1.9])  # 20, 20, 30
        rows += study("few", "forward", seed, [5.0, 4.0, 3.0])  # never
        rows += study("few", "restarts", seed, [1.0])  # after 10
        rows += study("many", "tpe", seed, [5.0, 4.0])
        rows += study("many", "forward", seed, [5.0, 4.5, 4.0 if seed else 4.2])
        rows += study("throw", "tpe", seed, [5.0])
    return pd.DataFrame(rows)


def test_the_ratio_is_that_of_the_medians_and_seeds_are_counted(frame):
    rows = compare_all.table(frame, {"few": 3, "many": 100}).set_index("task")

    assert list(rows.index) == ["few", "many"]
    few, many = rows.loc["few"], rows.loc["many"]
    assert (few.black_box, few.hypergradient, few.hybrid) == (
        *("tpe", "long_term", "restarts"),
    )
    assert few.black_box_evals == 50
    assert (few.hypergradient_evals, few.hypergradient_ratio) == (20, 0.4)
    assert (few.hybrid_evals, few.hybrid_ratio, few.hybrid_reached) == (10, 0.2, 3)
    assert (few.hypergradient_reached, few.seeds, few.aim) == (3, 3, 1.0)
    assert (many.hypergradient_evals, many.hypergradient_ratio) == (30, 1.5)
    assert (many.hypergradient_reached, many.aim, many.hybrid) == (2, 0.1, "")
    assert math.isnan(many.hybrid_ratio)


def test_who_never_arrives_is_said_so(frame):
    late = frame[frame.method != "long_term"]
    lines = compare_all.markdown(compare_all.table(late, {"few": 7, "many": 9}))
    assert lines.splitlines()[2:] == [
        "| `few` | 7 | `tpe` | 50 | 0.33 | `forward` | never | never | 0 of 3 "
        "| `restarts` | 10 | 0.20 | 3 of 3 |",
        "| `many` | 9 | `tpe` | 20 | 0.33 | `forward` | 30 | 1.50 | 2 of 3 "
        "| – | – | – | – |",
    ]


def test_it_writes_the_table_beside_the_frame(frame, tmp_path, monkeypatch, capsys):
    def compare(**given):
        (tmp_path / given["name"]).mkdir()
        compared = frame.replace({"few": "digits", "many": "cleaning"})
        write_frame(compared, tmp_path / given["name"] / "frame.parquet")
        return compared

    monkeypatch.setattr(compare_all, "compare", compare)
    names = ["digits", "cleaning", "throw"]
    compare_all.main(["--tasks", *names, "--storage", str(tmp_path)])

    rows = pd.read_parquet(tmp_path / "all" / "table.parquet")
    assert rows.set_index("task").hyperparameters.to_dict() == {
        "digits": 7, "cleaning": 503,
    }  # fmt: skip
    assert "| `digits` | 7 | `tpe` |" in capsys.readouterr().out
