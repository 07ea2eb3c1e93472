"""Comparisons of methods where options say which hyperparameters are used."""

import itertools
from dataclasses import dataclass

import optuna
import pandas as pd
import pytest
import torch
from ray import cloudpickle

import raymeta
from raymeta.outer.landscape import loss_surface
from raymeta.results.jsonlines import JsonLines
from raymeta.search import compare
from raymeta.search.methods import get, missing
from raymeta.search.methods.pb2 import Pb2
from raymeta.search.methods.pbt import Pbt
from raymeta.search.methods.pbt_descent import PbtDescent
from raymeta.search.tune.optuna_searcher import OptunaSearcher
from raymeta.search.tune.space import to_tune, tune_names
from raymeta.space import Choice, Positive, Space, Unit
from tests.support import either
from tests.support.either import Either

cloudpickle.register_pickle_by_value(either)

POPULATION = {"population": 4, "intervals": 3, "quantile": 0.5}
FEW = {"population": 4, "intervals": 2, "quantile": 0.5}  # a copy costs pb2 a second
BY_NAME = [
    *("random", "sobol", "grid", "asha", "hyperband", "median", "tpe", "gp"),
    *("short_term", "long_term", "forward", "truncated", "checkpointed", "es", "pes"),
    *("tpe_descent", "restarts", "random_batch"),
]
NEEDY = [
    *("cmaes", "nevergrad", "hyperopt", "bayesopt", "bohb"),
    *("smac", "ax", "blendsearch", "cqr", "asha_cqr"),
]
METHODS = [
    *map(get, BY_NAME),
    *(Pbt(**POPULATION), Pb2(**FEW), PbtDescent(**POPULATION)),
    *(method for method in map(get, NEEDY) if not missing(method)),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)


def require_used_alone(frame):
    """Of every row: what its options use is there, and nothing else."""
    by_sgd = frame["hp/opt"] == "sgd"
    for name in ("momentum[0]", "momentum[1]", "nesterov"):
        assert (frame[f"hp/{name}"].notna() == by_sgd).all()
    assert (frame["hp/beta1"].notna() != by_sgd).all()
    assert frame["hp/opt"].isin(["sgd", "adam"]).all()


@every_method
def test_rows_have_what_their_options_use(bench, method):
    budget = 100 if method.name == "pb2" else 200
    frame = bench(Either(), method, budget=budget).run().frame()
    require_used_alone(frame)
    assert not frame.failure.any()
    assert (frame.status == "final").sum() == 1
    if method.family != "hypergradient" and method.name != "restarts":
        assert set(frame["hp/opt"]) == {"sgd", "adam"}


def rows(bench, task, method):
    """The frame of a small budget, without names and times."""
    budget = 200 if method.name == "grid" else 110
    frame = bench(task, method, budget=budget).run().frame()
    named = {f"hp/opt{task.slash}lr": "hp/optlr"}
    return frame.rename(columns=named).drop(columns=["wall_s", "task"])


@every_method
def test_what_is_declared_and_any_name_give_the_rows_of_what_is_found(bench, method):
    found = rows(bench, Either(), method)
    declared = rows(bench, Either(name="e", declared=True, slash="/"), method)
    pd.testing.assert_frame_equal(found, declared)


@pytest.mark.parametrize("slash", ["∕", ".", " ", "é, ", "hp/", "$_$", "//"], ids=ascii)
@pytest.mark.parametrize("method", ["tpe", "long_term"])
def test_other_names_give_the_same_rows(bench, method, slash):
    found = rows(bench, Either(), get(method))
    named = rows(bench, Either(name="e", slash=slash), get(method))
    pd.testing.assert_frame_equal(found, named)


def test_names_differ_for_tune_as_they_do():
    space = Space(**{name: Unit(0.5) for name in ("a/b", "a∕b", "a∕b∕", "a b")})
    names = tune_names(space)
    assert len(set(names.values())) == 4
    assert not any("/" in shown for shown in names.values())
    assert names["a b"] == "a b"
    assert names["a∕b"] == "a∕b"


# ------------------------------------------------------------------------------- grids


def suggested(method, task, seed=0):
    search = method.tune_config(task, seed).search_alg
    search.set_search_properties("outer_loss", "min", to_tune(task.space))
    for number in itertools.count():
        yield search.suggest(str(number))


def test_a_grid_has_the_levels_of_what_is_used():
    task = Either(declared=True)
    grid = get("grid").sized(21)
    assert grid.min_budget(task, task.sample(0)) == 21 * (9 + 1 / 3)
    points = list(itertools.islice(suggested(grid, task), 21))[1:]
    coded = [tuple(sorted(point.items())) for point in points]
    assert len(set(coded)) == 20
    by_opt = {opt: [p for p in points if p["opt"] == opt] for opt in ("sgd", "adam")}
    assert len(by_opt["sgd"]) == 2 * 2 * 2 * 2  # lr, momentum[0], [1], nesterov
    assert len({(p["optlr"], p["beta1"]) for p in by_opt["adam"]}) == 4


# ------------------------------------------------------------------------------ Optuna


def test_tpe_models_groups_of_what_is_used_together():
    task = Either(declared=True)
    search = get("tpe").tune_config(task, 0).search_alg
    search.set_search_properties("outer_loss", "min", to_tune(task.space))
    for number in range(40):
        point = search.suggest(str(number))
        used = set(task.space.used(point))
        assert set(point) == used  # nothing else is asked for
        loss = point.get("beta1", 2.0) + abs(point["optlr"] - 0.1)
        result = {"outer_loss": loss, "training_iteration": 1}
        search.on_trial_complete(str(number), result)
    study = search._inner._ot_study
    groups = {frozenset(trial.params) for trial in study.trials}
    assert groups == {
        frozenset({"opt", "optlr", "beta1"}),
        frozenset({"opt", "optlr", "momentum[0]", "momentum[1]", "nesterov"}),
    }
    late = [trial.params["opt"] for trial in study.trials[-10:]]
    assert late.count(1) > 7  # adam: the lower losses


@dataclass
class Anything:
    """Options that Optuna cannot tell apart."""

    name: str = "anything"
    horizon: int = 9

    @property
    def space(self):
        return Space(
            lr=Positive(0.1, low=0.01, high=1.0),
            kind=Choice((True, 2, 3.0, [1], {"a": torch.ones(2)}, None), initial=3.0),
        )


@pytest.mark.parametrize("name", ["tpe", "gp", "random", "sobol", "grid"])
def test_options_come_back_as_they_are(name):
    task = Anything()
    points = list(itertools.islice(suggested(get(name), task), 12))
    assert points[0]["kind"] == 3.0
    assert type(points[0]["kind"]) is float
    choice = task.space["kind"]
    assert len({choice.index(point["kind"]) for point in points}) > 3
    for point in points:
        option = choice.option(point["kind"])
        same = isinstance(option, list | dict) or type(option) is type(point["kind"])
        assert same
        assert choice.plain(option) == point["kind"]


def test_without_conditions_optuna_suggests_what_it_suggested_without_us():
    """The numbers of Tune's own `OptunaSearch` on the same space."""
    from ray.tune.search.optuna import OptunaSearch

    space = Space(
        b=Unit(0.5, high=0.9),
        a=Positive(0.1, low=0.01, high=1.0),
        kind=Choice(("x", None, 3)),
    )
    sampler = optuna.samplers.TPESampler
    ours = OptunaSearcher(space, sampler(seed=3))
    theirs = OptunaSearch(
        sampler=sampler(seed=3), points_to_evaluate=[space.initial_point()]
    )
    for search in (ours, theirs):
        assert search.set_search_properties("outer_loss", "min", to_tune(space))
    for number in range(30):
        points = [search.suggest(str(number)) for search in (ours, theirs)]
        assert points[0] == points[1]
        loss = points[0]["a"] + points[0]["b"] + (points[0]["kind"] == "x")
        for search in (ours, theirs):
            search.on_trial_complete(
                str(number), {"outer_loss": loss, "training_iteration": 1}
            )


# ------------------------------------------------------------------ frames and surfaces


def test_figures_and_reports_leave_what_is_empty_out(bench, tmp_path):
    methods = ["random", "tpe_descent", "long_term"]
    frame = bench(Either(), methods, budget=120).run().frame()
    frame.to_parquet(tmp_path / "frame.parquet")
    pages = raymeta.analysis.write_report(tmp_path)
    assert tmp_path / "report.html" in pages
    best = raymeta.analysis.best_hparams(frame, "either", 0)
    used = Either(declared=True).space.used(best)
    assert {name for name, value in best.items() if value == value} == set(used)


def test_a_surface_is_over_what_is_used():
    task = Either()
    rows = loss_surface(task, ["optlr", "momentum[1]"], points=2)
    assert rows.outer_loss.notna().all()
    assert "hp/beta1" not in rows
    with pytest.raises(ValueError, match="that are used, but 'beta1' is not at"):
        loss_surface(task, ["optlr", "beta1"], points=2)


# ------------------------------------------------------------------------------ on Ray


@pytest.mark.ray
def test_a_conditional_comparison_on_ray(cluster, bench, tmp_path):
    methods = ["random", "tpe", "tpe_descent", "long_term"]
    settings = {"tasks": Either(slash="/"), "methods": methods, "budget": 110}

    frame = compare(**settings, seeds=1, name="x", storage=tmp_path, progress=False)

    require_used_alone(frame)
    assert set(frame.method) == set(methods)
    assert not frame.failure.any()
    # Nothing, or half of the journal of one that was killed, leads to the same.
    events = JsonLines(tmp_path / "x" / "journal.jsonl").read()
    for known in ((), events[: len(events) // 2]):
        expected = bench(**settings, events=known).run().frame()
        pd.testing.assert_frame_equal(
            frame.drop(columns="wall_s"), expected.drop(columns="wall_s")
        )
