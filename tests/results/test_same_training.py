"""Whether two records say that the same was trained on."""

import pytest

from raymeta.results.same_training import Difference, difference, unlike, unqualified

RECORD = {
    "tasks": {"a": {"horizon": 9, "space": "Space(lr)", "settings": "A(x=1)"}},
    "methods": {"m": "M(y=2)"},
    "budgets": {"a": 10.0},
    "at_once": 1,
    "runs": [{"versions": {"ray": "2.60.0", "torch": "2.13", "python": "3.11.7"}}],
    "code": {"python": "3.11", "parts": {"a.A": "12"}},
}


def changed(**parts):
    return RECORD | parts


def test_the_same_and_what_only_one_has_are_no_difference():
    other = {"b": {"horizon": 5, "space": "Space(w)", "settings": "B()"}}
    more = changed(tasks=RECORD["tasks"] | other, methods={"n": "N()"})
    assert difference(RECORD, RECORD) is None
    assert difference(RECORD, more) is None
    assert difference(RECORD, {}) is None
    python = [{"versions": {"ray": "2.60.0", "torch": "2.13", "python": "3.11.9"}}]
    assert difference(RECORD, changed(runs=python)) is None


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ({"tasks": {"a": RECORD["tasks"]["a"] | {"horizon": 8}}}, "horizon of task"),
        ({"tasks": {"a": RECORD["tasks"]["a"] | {"space": "S"}}}, "space of task 'a'"),
        ({"methods": {"m": "M(y=3)"}}, "settings of method 'm'"),
        ({"budgets": {"a": 20.0}}, "budget on task 'a'"),
        ({"at_once": 4}, "at_once"),
        ({"runs": [{"versions": {"ray": "2.55.1"}}]}, "version of ray"),
        ({"runs": [{"versions": {"python": "3.12.1"}}]}, "version of Python"),
        (
            {"runs": [*RECORD["runs"], {"versions": {"torch": "2.12"}}]},
            "version of torch",
        ),
        ({"code": {"python": "3.11", "parts": {"a.A": "13"}}}, "code of a.A"),
    ],
)
def test_each_difference_is_named_with_both_values(parts, what):
    found = difference(RECORD, changed(**parts))
    assert isinstance(found, Difference)
    assert found.what.startswith(what)
    assert found.one != found.other


def test_settings_without_the_modules_of_classes():
    then = {"a": {"settings": "<__main__.Mine object>", "n": 3}}
    now = {"a": {"settings": "<my.tasks.Mine object>", "n": 3}}
    assert unqualified(then) == unqualified(now)
    inner = "Task(kind=<class '__main__.A'>, f=<test.<locals>.B object>)"
    assert unqualified(inner) == "Task(kind=<class 'A'>, f=<B object>)"
    assert unqualified(then) != unqualified({"a": {"settings": "<Other object>"}})


def test_evidence_of_the_same_seed_must_agree():
    one = {"a": {"0": {"weights": "1", "data": "2", "batches": "3"}}}
    other = {"a": {"0": {"weights": "1", "data": "9", "batches": "8"}}}
    assert unlike(one, one) is None
    assert unlike(one, {"a": {"1": other["a"]["0"]}, "b": {}}) is None
    assert unlike(one, other) == ("a, seed 0", ["data", "batches"])
