"""What `compare` refuses, and what it writes; nothing here starts Ray."""

import json
import re
import sys
from contextlib import closing
from importlib import metadata

import pandas as pd
import pytest
from search_toys import Bowl, Listed, Walk

from raymeta.analysis.report.record import read_settings
from raymeta.analysis.tables.frames import read
from raymeta.hypergrad.registry import ESTIMATORS
from raymeta.results.jsonlines import JsonLines
from raymeta.results.run_folder import RunFolder, run_name
from raymeta.search import compare
from raymeta.search.methods import DEFAULT, METHODS, get, missing
from raymeta.search.plan import make_plan
from raymeta.search.progress import opening
from raymeta.search.tune.search_study import study_of
from raymeta.space import Choice, Positive, Space
from raymeta.tasks import LearningRateSchedule, Quadratic, Throw


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch):
    for start in ("raymeta.runtime.ray_session._start", "ray.tune.Tuner.fit"):
        monkeypatch.setattr(start, lambda *args: pytest.fail("started Ray"))


@pytest.fixture
def refused(tmp_path):
    """Assert that `compare` refuses its arguments in one sentence."""

    def check(*args, match, **kwargs):
        kwargs = {"storage": tmp_path, "progress": False} | kwargs
        with pytest.raises(ValueError, match=match) as error:
            compare(*args, **kwargs)
        assert "\n" not in str(error.value)

    return check


def test_unknown_names_are_refused_with_the_one_that_was_meant(refused):
    refused("digitz", match="unknown task 'digitz': did you mean 'digits'")
    refused(Bowl(), "tpee", match="unknown method 'tpee': did you mean 'tpe'")
    gone = "unknown method 'forward_long': did you mean 'forward'"
    refused(Bowl(), "forward_long", match=gone)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tasks": []}, "needs some tasks, but got none"),
        ({"methods": []}, "needs some methods"),
        ({"seeds": []}, "needs some seeds"),
        ({"seeds": 0}, "needs some seeds"),
        ({"seeds": [1, 2, 1]}, "seeds of a comparison must differ, but got 1 more"),
        ({"seeds": [-1]}, "integers from 0 to .* but got -1"),
        ({"seeds": [0.5]}, "integers from 0 to .* but got 0.5"),
        ({"tasks": [Bowl(), Bowl(horizon=5)]}, "tasks .* differ, but got 'bowl'"),
        ({"methods": ["tpe", "tpe"]}, "methods .* differ, but got 'tpe'"),
        ({"methods": [Bowl()]}, "methods must be names, or objects of classes"),
        ({"tasks": [Walk()]}, "a task needs name, space, horizon, budget and sample"),
        ({"at_once": 0}, "at_once must be a number of trials, 1 or more, but got 0"),
        ({"name": "a/b"}, "a name must consist of letters, .* got 'a/b'"),
        ({"name": ".."}, "a name must consist of letters"),
    ],
)
def test_arguments_that_cannot_be_meant(refused, change, match):
    refused(**({"tasks": Bowl(), "methods": "random"} | change), match=match)


@pytest.mark.parametrize(
    ("methods", "smallest"),
    [(Walk(), 10), ("random", 10), (["tpe", "asha"], 12)],  # asha reports at 1, 3, 9
)
def test_a_budget_must_cover_a_full_run(refused, methods, smallest):
    match = f"'bowl'.* got 9.9 gradient evaluations: give {smallest} or more"
    refused(Bowl(), methods, budget=9.9, match=match)
    for budget in (float("nan"), float("inf"), 0):
        refused(Bowl(), methods, budget=budget, match="a budget must cover")


def test_a_method_that_a_task_is_too_dear_for_is_skipped_with_a_line():
    plan = make_plan([Bowl(), Bowl(name="b", budget=11.5)], ["random", "asha"], None, 2)

    assert plan.unfit() == {
        ("b", "asha"): (
            "it takes at least 12 gradient evaluations, and the budget is 11.5"
        )
    }
    names = [tuple(study.key) for study in plan.study_specs()]
    assert names == [
        ("bowl", "random", 0), ("bowl", "asha", 0),
        ("bowl", "random", 1), ("bowl", "asha", 1),
        ("b", "random", 0), ("b", "random", 1),
    ]  # fmt: skip
    lines = opening(plan, "x")
    assert f"skipping asha on b: {plan.unfit()['b', 'asha']}" in lines
    assert "2 methods x 2 tasks x 2 seeds (0, 1) = 6 studies" in lines


@pytest.mark.parametrize(
    ("task", "method", "reason"),
    [
        (Throw(), "short_term", "the outer loss does not depend on .* 'speed'"),
        (Throw(), "truncated", "the outer loss does not depend on .* 'speed'"),
        (Throw(), "reversible", "Reversible needs a problem whose step is a `Descent`"),
        (Quadratic(), "implicit", "the outer loss does not depend on .* 'lr'"),
        (LearningRateSchedule(), "forward", "it takes at least 20,102 gradient eval"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_what_a_task_does_not_allow_is_skipped_with_the_reason(task, method, reason):
    plan = make_plan(task, [method, "reverse"], None, 1)
    assert [study.method.name for study in plan.study_specs()] == ["reverse"]
    assert re.match(reason, plan.unfit()[task.name, method])


def test_nothing_left_is_an_error_with_all_reasons(refused):
    match = r"no method fits task 'throw' \(short_term: .*; implicit: .*\): add others"
    refused(Throw(), ["short_term", "implicit"], match=match)


def test_every_estimator_is_a_method_by_its_name():
    for name in ESTIMATORS:
        method = get(name)
        assert (method.name, method.estimator) == (name, name)


def test_a_space_without_bounds_is_refused_and_leaves_nothing(refused, tmp_path):
    class Unbounded(Bowl):
        @property
        def space(self):
            return Space(lr=Positive(0.1))

    match = "'lr' .*finite bounds.*: give low= and high="
    refused(Unbounded(), ["random", Walk()], match=match)
    assert list(tmp_path.iterdir()) == []


def test_storage_that_cannot_be_written_is_refused_first(refused, tmp_path):
    (tmp_path / "file").touch()
    refused(
        Bowl(), "random", storage=tmp_path / "file", match="Not a directory.*storage"
    )


def test_a_folder_of_something_else_is_left_alone(refused, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.tex").touch()
    refused(Bowl(), "random", name="x", match="holds something else")
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["thesis.tex"]


def comparison(storage, plan):
    """The open folder `x` of a comparison."""
    return RunFolder.open(storage, "x", "comparison", plan.settings())


def test_the_same_settings_in_another_order_are_the_same(tmp_path):
    one = make_plan([Bowl(), Bowl(name="b")], ["tpe", "random"], None, 1)
    other = make_plan([Bowl(name="b"), Bowl()], ["random", "tpe"], None, 1)
    for plan in (one, other):
        with comparison(tmp_path, plan):
            pass


def test_settings_have_no_memory_addresses():
    first, second = (Listed((0.1,), hook=lambda searcher: None) for _ in range(2))
    settings = [make_plan(Bowl(), m, 20, 1).settings() for m in (first, second)]
    assert settings[0] == settings[1]


def test_the_record_says_what_ran(tmp_path):
    with comparison(tmp_path, make_plan(Bowl(), "random", 50, (3, 4))) as folder:
        folder.record_run()

    record = json.loads((tmp_path / "x" / "comparison.json").read_text())

    assert record["seeds"] == [3, 4]
    assert record["budgets"] == {"bowl": 50.0}
    assert list(record["methods"]) == ["random"]
    assert record["tasks"]["bowl"]["horizon"] == 9
    (run,) = record["runs"]
    assert run["command"] == sys.argv
    assert set(run["versions"]) == {"python", "raymeta", "torch", "ray", "optuna"}
    assert run["versions"]["ray"][0].isdigit()
    assert run["machine"]["CPUs"] >= 1
    assert run["machine"]["system"]
    assert run["commit"] is None or re.fullmatch("[0-9a-f]{40}(-dirty)?", run["commit"])


def test_new_names_come_from_tasks_and_time(tmp_path):
    first = run_name(tmp_path, None, ["digits", "a task/b"])
    (tmp_path / first).mkdir()

    assert first.startswith("digits-a_task_b-20")
    assert run_name(tmp_path, None, ["digits", "a task/b"]) != first


def test_a_finished_comparison_returns_without_ray(bench, tmp_path):
    settings = {"tasks": Bowl(), "methods": "random", "budget": 30, "seeds": 2}
    done = bench(**settings).run()
    with (
        comparison(tmp_path, make_plan(**settings)) as folder,
        closing(JsonLines(folder.path / "journal.jsonl")) as journal,
    ):
        for event in done.journal.read():
            journal.append(event)

    lines = []
    frame = compare(**settings, name="x", storage=tmp_path, progress=lines.append)
    again = compare(**settings, name="x", storage=tmp_path, progress=lines.append)

    pd.testing.assert_frame_equal(frame, done.frame())
    pd.testing.assert_frame_equal(again, frame)
    assert "finished before" in lines[-1]


def test_what_older_versions_finished_is_read_with_the_names_of_today(bench, tmp_path):
    """`forward` was the online method then, and `forward_long` the whole run."""
    methods = ["random", "forward_online", "forward"]
    settings = {"tasks": Quadratic(), "methods": methods, "budget": 250, "seeds": 1}
    done = bench(**settings).run()
    plan = make_plan(**settings)
    then = {"forward_online": "forward", "forward": "forward_long"}
    record, texts = plan.settings() | {"runs": []}, plan.settings()["methods"]
    record["methods"] = {
        then.get(name, name): text.replace(
            f"HypergradientDescent(name='{name}'", f"Descent(name='{then.get(name)}'"
        )
        for name, text in texts.items()
    }
    del record["at_once"]  # there was no choice
    assert "estimator='forward_online'" in record["methods"]["forward"]
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "comparison.json").write_text(json.dumps(record))
    journal = folder / "journal.jsonl"
    journal.write_text('{"event": "start"}\n')
    with pytest.raises(ValueError, match="begun by an older raymeta"):
        compare(**settings, name="x", storage=tmp_path, progress=False)
    assert json.loads((folder / "comparison.json").read_text()) == record

    frame = done.frame()
    shown = frame.assign(method=frame["method"].replace(then))
    shown.attrs.clear()
    shown.to_parquet(folder / "frame.parquet")
    pd.testing.assert_frame_equal(read(folder), frame)
    journal.write_text('{"event": "start"}\n{"event": "finished"}\n')
    again = compare(**settings, name="x", storage=tmp_path, progress=False)
    pd.testing.assert_frame_equal(again, frame)
    assert list(read_settings(folder)["methods"]) == methods
    fewer = {**settings, "methods": ["random", "forward_online"]}
    part = compare(**fewer, name="x", storage=tmp_path, progress=False)
    kept = frame[frame.method != "forward"].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, kept)
    with pytest.raises(ValueError, match=r"other at_once \(1 then, 4 now\)"):
        compare(**settings, at_once=4, name="x", storage=tmp_path, progress=False)


@pytest.fixture
def without_packages(monkeypatch):
    """Nothing that a method requires is installed."""

    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("raymeta.search.methods.metadata.version", version)


def test_methods_whose_packages_are_missing_are_skipped_with_a_line(without_packages):
    plan = make_plan(Bowl(), ["random", "cmaes", "hyperopt"], None, 1)

    assert [method.name for method in plan.methods] == ["random"]
    lines = opening(plan, "x")
    assert "skipping cmaes: pip install 'cmaes>=0.10'" in lines
    assert "skipping hyperopt: pip install 'hyperopt>=0.2.7'" in lines


def test_all_methods_are_those_that_can_run(without_packages):
    plan = make_plan(Bowl(), "all", None, 1)

    assert {m.name for m in plan.methods} | set(plan.skipped) == set(METHODS)
    needy = {"cmaes", "bohb", "hyperopt", "nevergrad", "bayesopt"}
    needy |= {"smac", "ax", "blendsearch", "cqr", "asha_cqr"}
    needy |= {"schedule_free", "schedule_free_calibrated"}
    needy |= {"prodigy", "prodigy_cosine"}
    assert set(plan.skipped) == needy


def test_nothing_but_missing_methods_is_an_error(refused, without_packages):
    refused(Bowl(), "cmaes", match=r"each one lacks packages: cmaes needs pip install")


def test_a_package_of_another_version_is_missing(monkeypatch):
    monkeypatch.setattr("raymeta.search.methods.metadata.version", lambda name: "2.0.1")
    needs = missing(METHODS["bayesopt"])
    assert needs == ("bayesian-optimization>=1.4,<2",)


def test_a_few_methods_are_the_default():
    plan = make_plan(Bowl(), None, None, 1)
    assert tuple(method.name for method in plan.methods) == DEFAULT
    many = make_plan(LearningRateSchedule(), None, None, 1)  # 100 hyperparameters
    assert [study.method.name for study in many.study_specs()] == list(DEFAULT[:-2])
    said = [line for line in opening(many, "x") if line.startswith("skipping")]
    for name, line in zip(DEFAULT[-2:], said, strict=True):
        assert line.startswith(f"skipping {name} on schedule: it takes at least 20,1")


def test_a_population_needs_something_continuous():
    class Discrete(Bowl):
        @property
        def space(self):
            return Space(kind=Choice(["plain", None]))

    for name in ("pbt", "pb2"):
        (study,) = make_plan(Discrete(), name, None, 1).study_specs()
        with pytest.raises(ValueError, match=f"'{name}' .* has only choices: use ano"):
            study_of(study)
