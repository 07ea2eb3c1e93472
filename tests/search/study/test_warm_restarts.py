"""Where the runs of a hybrid begin after its search."""

import math

import pytest
from search_toys import Bowl

from raymeta.search.methods.pbt_descent import PbtDescent
from raymeta.search.methods.tpe_descent import TpeDescent
from raymeta.search.study.warm_restarts import WarmRestarts

A, B, C, D = ({"lr": value} for value in (0.1, 0.2, 0.3, 0.4))


def test_a_better_run_is_where_the_next_one_begins():
    warm = WarmRestarts(A, 2.0)
    warm.add(1.0, B)
    assert (warm.next, warm.best, warm.factor) == (B, 1.0, 1.0)


def test_a_worse_one_is_gone_on_from_once_with_shorter_steps():
    warm = WarmRestarts(A, 2.0)
    warm.add(3.0, B)
    assert (warm.next, warm.factor) == (B, pytest.approx(0.8))
    warm.add(4.0, C)
    assert (warm.next, warm.factor) == (A, pytest.approx(0.64))
    warm.add(5.0, D)
    assert warm.next == D


def test_one_that_diverges_is_not_gone_on_from():
    warm = WarmRestarts(A, 2.0)
    warm.add(math.inf, B)
    assert (warm.next, warm.best) == (A, 2.0)


@pytest.mark.parametrize("method", [TpeDescent(), PbtDescent(population=4)])
def test_after_half_of_the_budget_a_run_begins_where_one_has_ended(bench, method):
    done = bench(Bowl(), method, budget=300).run()
    (study,) = done.studies
    assert study.spent <= 300
    asked = [e for e in done.journal.read() if e["event"] == "start"]
    late = [e for e in asked if e["trial"] in study._restarts]
    assert len(late) > 1
    rows = done.frame()
    before = rows[(rows.trial < late[0]["trial"]) & (rows.status == "complete")]
    assert before.gradient_evals.max() >= 150
    best = before.sort_values("outer_loss").iloc[0]
    assert late[0]["hparams"]["lr"] == best["hp/lr"]
    assert study.best[0] <= best.outer_loss
