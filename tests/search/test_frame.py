import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import pytest
from search_toys import Bowl, Listed, Walk

from raymeta.analysis.tables.incumbents import incumbents
from raymeta.outer.report import Report
from raymeta.results.run_folder import write_frame
from raymeta.search.frame import to_frame
from raymeta.search.plan import make_plan
from raymeta.search.tune.search_study import study_of
from raymeta.space import Choice, Positive, Space

COLUMNS = [
    *("task", "method", "family", "seed", "trial", "parent"),
    *("outer_step", "inner_steps"),
    *("gradient_evals", "flops", "wall_s", "outer_loss", "best_outer_loss"),
    *("agreement", "roughness", "rejected", "offset"),
    *("holdout_loss", "standard_error", "examples"),
    *("status", "failure", "test_loss", "hp/lr", "hp/kind"),
]


@dataclass(frozen=True, kw_only=True)
class Wide(Bowl):
    """Another space, in which `kind` is a number."""

    name: str = "wide"

    @property
    def space(self):
        lr = Positive(0.1, low=0.01, high=1.0)
        return Space(lr=lr, kind=Choice([32, 64]), flag=Choice([True, False]))


def test_columns_are_these_and_rows_go_cell_by_cell(bench):
    methods = (Listed((0.5, 0.4), rung=3), Walk())

    frame = bench(Bowl(), methods, budget=30, seeds=(3, 1)).run().frame()

    assert list(frame.columns) == COLUMNS
    studies = frame[["method", "seed"]].drop_duplicates()
    assert list(studies.itertuples(index=False, name=None)) == [
        ("listed", 3), ("walk", 3), ("listed", 1), ("walk", 1),
    ]  # fmt: skip
    families = frame.groupby("method").family.unique().str[0].to_dict()
    assert families == {"listed": "black-box", "walk": "hypergradient"}
    for _, study in frame.groupby(["method", "seed"], sort=False):
        assert study.wall_s.is_monotonic_increasing
        assert study.wall_s.iloc[0] > 0


def test_a_frame_without_rows_has_the_columns_and_types():
    plan = make_plan(Bowl(), Walk(), None, 1)

    frame = to_frame(map(study_of, plan.study_specs()))

    assert list(frame.columns) == COLUMNS
    assert len(frame) == 0
    assert frame.dtypes["seed"] == "int64"
    assert frame.dtypes["outer_loss"] == "float64"


def test_choices_are_numbers_where_all_are_and_words_otherwise(bench):
    frame = bench(Wide(), "random", budget=80).run().frame()
    assert set(frame["hp/kind"]) == {32.0, 64.0}
    assert set(frame["hp/flag"]) == {"True", "False"}

    both = bench([Wide(), Bowl()], "random", budget=80).run().frame()
    assert set(both["hp/kind"]) == {"32", "64", "plain", "None"}
    assert both[both.task == "bowl"]["hp/flag"].isna().all()


def test_parquet_gives_back_the_same_frame(bench, tmp_path):
    task = Bowl(nan_above=0.85)
    frame = bench(task, (Walk((0.9, 0.1, None)), "random"), budget=40).run().frame()
    path = tmp_path / "frame.parquet"
    path.write_bytes(b"what was here before")

    write_frame(frame, path)

    pd.testing.assert_frame_equal(pd.read_parquet(path), frame)
    assert math.isnan(pd.read_parquet(path).outer_loss[0])
    assert [p.name for p in tmp_path.glob("*.parquet*")] == ["frame.parquet"]


def test_metrics_get_the_prefix_once(bench):
    class Named(Bowl):
        def sample(self, seed):
            problem = super().sample(seed)
            metrics = lambda state, hparams: {"test_loss": 2.0, "accuracy": 0.5}  # noqa: E731
            object.__setattr__(problem, "metrics", metrics)
            return problem

    frame = bench(Named(), "random", budget=10).run().frame()

    final = frame.iloc[-1]
    assert (final.test_loss, final.test_accuracy) == (2.0, 0.5)
    names = list(frame.columns)
    assert names.index("test_accuracy") == names.index("test_loss") + 1


@pytest.mark.parametrize("method", [Listed((0.5,)), Walk((0.5,))])
def test_metrics_that_fail_say_so_in_the_final_row(bench, method):
    class Broken(Bowl):
        def sample(self, seed):
            problem = super().sample(seed)

            def metrics(state, hparams):
                raise KeyError("data")

            object.__setattr__(problem, "metrics", metrics)
            return problem

    frame = bench(Broken(), method, budget=10).run().frame()

    final = frame.iloc[-1]
    assert (final.status, final.failure) == ("final", "KeyError: 'data'")
    assert final.outer_loss == frame.outer_loss[0]
    assert math.isnan(final.test_loss)


@dataclass(frozen=True)
class Returning(Walk):
    """A walk that returns where it ends, although it has been lower."""

    def reports(self, *args) -> Iterator[Report]:
        *before, last = super().reports(*args)
        yield from [*before, last._replace(returned=True)]


def test_what_counts_is_what_a_descent_returns(bench):
    """The lucky point, lr 0.5, scores nowhere: in no row, table or final look."""
    rates = (0.2, 0.1, 0.5, 0.3)
    frame = bench(Bowl(), Returning(rates), budget=40, seeds=1).run().frame()
    *_, end, final = frame.outer_loss
    first = frame.outer_loss[0]
    assert frame.best_outer_loss.tolist() == [first, first, first, end, end]
    assert final == end
    assert frame["hp/lr"].iloc[-1] == 0.3
    assert incumbents(frame)["hp/lr"].tolist() == [0.2, 0.3]
