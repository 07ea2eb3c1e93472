"""Reports in columns: what is put in comes out."""

import math
import tracemalloc
from dataclasses import replace
from random import Random

import pytest
from search_toys import Bowl

from raymeta.outer.report import Report
from raymeta.search.methods import METHODS
from raymeta.search.study.report_columns import ReportColumns

DIGESTS = {"weights": "a" * 64, "data": "b" * 64, "batches": "c" * 64}
EVERY = [
    Report(),
    Report(1, 9, 10.0, 0.5, True, {"lr": 0.1, "kind": "plain"}, wall_s=0.25),
    Report(outer_step=2, outer_loss=math.inf, failure="non-finite at step 3"),
    Report(kind="failed", failure="ValueError: boom", gradient_evals=-0.0),
    Report(kind="final", metrics={"test_loss": 0.1, "standard_error": math.nan}),
    Report(evidence=DIGESTS, parent=0),
    Report(parent=7, agreement=0.9, roughness=0.0, rejected=1.0, offset=-1e-3),
    Report(returned=True, inner_steps=2**70, outer_step=-(2**63)),
    Report(gradient_evals=3),  # an int where a float is usual
    *(
        Report(hparams={"b": x, "a": 5e-324, "c[0,1]": 2.0**-30})
        for x in (1, 1.0, True, "1", None, "", 2**63, -math.inf, 0, -0.0, False)
    ),
    Report(hparams={"a": 1.0, "b": 2.0}),
    Report(hparams={"b": 2.0, "a": 1.0}),  # in another order
]


def shown(pairs):
    """What tells True from 1, and −0 from 0, and the order of names."""
    return [repr(pair) for pair in pairs]


def test_every_field_comes_out_as_it_went_in():
    pairs = [(i % 4, report) for i, report in enumerate(EVERY * 2)]

    columns = ReportColumns(pairs)

    assert shown(columns) == shown(pairs)
    assert columns == pairs
    assert columns[-1] == pairs[-1]
    assert shown(columns[3:9:2]) == shown(pairs[3:9:2])
    with pytest.raises(IndexError):
        columns[len(pairs)]
    assert columns != pairs[1:]
    assert columns != [*pairs[:-1], (99, Report())]


def test_reports_of_a_trial_are_found_and_dropped_after_a_step():
    pairs = [
        (n, Report(step, outer_loss=n / step)) for step in (1, 2, 3) for n in (0, 1)
    ]
    columns = ReportColumns(pairs)

    columns.drop(1, after=1)

    left = [(n, r) for n, r in pairs if n == 0 or r.outer_step == 1]
    assert columns == left
    assert columns.of(0) == [r for n, r in pairs if n == 0]
    columns.append((1, EVERY[1]))
    assert columns == [*left, (1, EVERY[1])]


@pytest.mark.parametrize("field", Report().travelling())
def test_those_that_say_a_field_are_found(field):
    pairs = list(enumerate(EVERY))

    found = list(ReportColumns(pairs).saying(field))

    default = repr(getattr(Report(), field))
    assert found == [(n, r) for n, r in pairs if repr(getattr(r, field)) != default]


def test_more_reports_do_not_change_those_that_they_follow():
    columns = ReportColumns([(0, EVERY[1])])

    whole = columns.followed_by([(1, EVERY[1]), (2, EVERY[4])])

    assert whole == [(0, EVERY[1]), (1, EVERY[1]), (2, EVERY[4])]
    assert columns == [(0, EVERY[1])]


def test_a_report_costs_about_a_hundred_bytes():
    """Six columns of 8 bytes, six of 4, and their places; arrays grow by an eighth."""
    draw = Random(0).random
    tracemalloc.start()
    try:
        columns = ReportColumns(
            (i, Report(1, 100, draw(), draw(), True, {"lr": draw(), "kind": "sgd"},
                       wall_s=draw(), evidence=DIGESTS))
            for i in range(4000)
        )  # fmt: skip
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(columns) == 4000
    assert size / 4000 < 120


@pytest.mark.parametrize("name", ["random", "pbt", "long_term"])
def test_a_study_keeps_nothing_but_columns_of_trials_that_are_over(bench, name):
    method = METHODS[name]
    if name == "pbt":
        method = replace(method, population=4, intervals=3)
    task = Bowl(nan_above=1.2, raise_above=1.6)

    (study,) = bench(task, method, budget=150.0).run_many(3).studies

    assert study._done == {}
    assert len(study._spent._values) == 0
    failed = {n for n, report in study.reports if report.kind == "failed"}
    assert study.failed == len(failed)
    raised = [r.failure for _, r in study.reports if r.failure.startswith("ValueError")]
    assert study.error == next(iter(raised), "")
