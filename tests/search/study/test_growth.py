"""A larger budget: what was done counts as far as it would be done now."""

from dataclasses import replace

import pandas as pd
import pytest
from search_toys import Bowl, Listed

from raymeta.search.methods import METHODS, DescentMethod, missing
from raymeta.search.plan import make_plan
from raymeta.search.progress import growth_lines
from raymeta.search.study.coordinator import standing

TASK = Bowl(nan_above=1.2, raise_above=1.6)
SMALL, LARGE = 61.0, 110.0
HERE = [name for name, method in METHODS.items() if not missing(method)]
UNFIT = make_plan(TASK, HERE, SMALL, 1).unfit()
FITS = [name for name in HERE if (TASK.name, name) not in UNFIT]


@pytest.mark.parametrize("name", FITS)
def test_a_grown_frame_is_that_of_a_comparison_that_began_so_large(bench, name):
    method = METHODS[name]
    if name == "pb2":  # each copy takes it a second
        method = replace(method, population=4, intervals=3)
    small = bench(TASK, method, SMALL).run()
    fresh = bench(TASK, method, LARGE).run()

    grown = bench(TASK, method, LARGE, events=small.journal.read(), grown=True)
    (study,) = grown.studies
    kept = len(study.reports)
    grown.run()

    pd.testing.assert_frame_equal(grown.results(), fresh.results())
    again = bench(TASK, method, LARGE, events=grown.journal.read())
    assert again.coordinator.finished
    pd.testing.assert_frame_equal(again.results(), fresh.results())
    if isinstance(method, DescentMethod):
        assert kept == 0
    else:  # what came before the look at the test set, or the first of a bracket
        assert kept >= 1
    budget_blind = {"random", "sobol", "asha", "median", "tpe", "cmaes", "gp"}
    if name in budget_blind:
        assert kept == len(small.frame()) - 1


def test_every_method_was_tried_but_for_those_that_do_not_fit():
    assert len(FITS) >= 20
    assert all(reason for reason in UNFIT.values())


@pytest.mark.parametrize(("slots", "events"), [(1, 11), (5, 30)])
def test_one_that_was_killed_grows_too_and_is_killed_again(bench, slots, events):
    methods = ["random", "hyperband", "pbt", "tpe_descent", "long_term"]
    fresh = bench(TASK, methods, LARGE).run()

    small = bench(TASK, methods, SMALL).run_many(slots, 1, events)
    grown = bench(TASK, methods, LARGE, events=small.journal.read(), grown=True)
    killed = grown.run_many(slots, 2, events)
    again = bench(TASK, methods, LARGE, events=killed.journal.read()).run()

    pd.testing.assert_frame_equal(again.results(), fresh.results())


def test_a_journal_grows_twice(bench):
    fresh = bench(TASK, ["random", "pbt"], 3 * SMALL).run()
    events = bench(TASK, ["random", "pbt"], SMALL).run().journal.read()
    for budget in (2 * SMALL, 3 * SMALL):
        grown = bench(TASK, ["random", "pbt"], budget, events=events, grown=True).run()
        events = grown.journal.read()

    pd.testing.assert_frame_equal(grown.results(), fresh.results())
    assert len(standing(events)) < len([e for e in events if e["event"] != "grow"])


def test_studies_that_are_not_asked_for_stay_in_the_journal(bench):
    both = bench(TASK, ["random", "tpe"], SMALL, seeds=2).run()
    one = bench(TASK, "tpe", SMALL, events=both.journal.read())

    assert one.coordinator.finished
    frame = both.results()
    own = frame[(frame.method == "tpe") & (frame.seed == 0)].reset_index(drop=True)
    pd.testing.assert_frame_equal(one.results(), own)


def test_lines_say_what_is_kept_and_what_is_done_anew(bench):
    methods = [Listed((0.1,) * 20), "long_term"]
    events = bench(Bowl(), methods, 30.0).run().journal.read()
    some = bench(Bowl(), [*methods, "random"], 50.0)
    some.coordinator.replay(events, list(some.coordinator.studies)[:2])
    grown = list(some.coordinator.studies)[:2]
    known = set(map(str, grown))

    assert growth_lines(some.studies, known, grown) == [
        "added to what is there, 1 study: bowl/random",
        "larger budget, on after gradient evaluations: listed 30",
        "larger budget, anew, for it decides what is done first: long_term",
    ]
    assert growth_lines(some.studies, [*known, "bowl/random/0"], ()) == []
    assert growth_lines(some.studies, (), ()) == []
