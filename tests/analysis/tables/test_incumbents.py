"""Best trials and best runs, and what was learnt in them."""

import numpy as np
import pandas as pd
import pytest

from raymeta.analysis import (
    best_hparams,
    learnt_hparams,
)
from raymeta.analysis.tables.incumbents import best_run, incumbents

NAN = np.nan


def test_incumbents_are_full_horizon_reports_that_improve(report):
    study = pd.DataFrame(
        [
            report("tpe", 0, 400, 0.3, trial=3),
            report("tpe", 0, 100, 0.5, trial=0),
            report("tpe", 0, 150, 0.5, trial=1, outer_loss=0.1, status="running"),
            report("tpe", 0, 200, 0.5, trial=1, outer_loss=0.6),
            report("tpe", 0, 300, 0.5, trial=2, outer_loss=NAN, status="failed"),
            report("tpe", 0, 350, 0.5, trial=4, outer_loss=0.5),  # equal: not new
        ]
    )
    assert incumbents(study)["trial"].tolist() == [0, 3]


def test_the_best_run_of_an_online_descent(walks):
    rows = walks[walks["method"] == "short_term"]
    run = best_run(rows.sample(frac=1, random_state=1))
    assert run["inner_steps"].tolist() == [20, 40, 60, 80, 100]
    assert run["gradient_evals"].tolist() == [120, 140, 160, 180, 200]
    assert len(best_run(rows[rows["status"] == "running"])) == 0


def test_a_plain_run_between_is_not_the_best_run_of_an_online_descent(walks, report):
    plain = report("short_term", 0, 300, 0.1, **{"hp/lr": 0.1, "hp/momentum": 0.2})
    rows = pd.concat([walks[walks["method"] == "short_term"], pd.DataFrame([plain])])
    assert best_run(rows)["gradient_evals"].tolist() == [120, 140, 160, 180, 200]


def test_what_was_learnt_run_by_run(walks):
    method, learnt = learnt_hparams(walks, "digits", 0)
    assert method == "long_term"  # short_term changes λ within a run
    assert [values["lr"] for values in learnt] == [0.01, 0.02, 0.05]
    assert best_hparams(walks, "digits", 0)["lr"] == 0.05
    others = walks[walks["method"] != "long_term"]
    method, learnt = learnt_hparams(others, "digits", 0)
    assert (method, len(learnt)) == ("random", 1)
    assert best_hparams(others, "digits", 0)["lr"] == 1.0


def test_many_runs_are_thinned_and_the_best_one_stays(report):
    rows = [report("tpe", 0, i, 1 / i, **{"hp/lr": i}) for i in range(1, 101)]
    _, learnt = learnt_hparams(pd.DataFrame(rows), "digits", 0)
    assert len(learnt) == 24
    assert (learnt[0]["lr"], learnt[-1]["lr"]) == (1, 100)


def test_nothing_learnt_is_said(walks):
    online = walks[walks["method"] == "short_term"]
    with pytest.raises(ValueError, match="add long_term"):
        learnt_hparams(online, "digits", 0)
    with pytest.raises(ValueError, match="'digits' has none under seed 5"):
        best_hparams(walks, "digits", 5)
