"""Small frames, written by hand."""

import pandas as pd
import pytest

NAN = float("nan")
FAMILIES = {"random": "black-box", "tpe": "black-box", "asha": "black-box"}


def report(method, seed, evals, best, **changes):
    """One row; a full-horizon report of trial 0 unless told otherwise."""
    row = {
        "task": "digits",
        "method": method,
        "family": FAMILIES.get(method, "hypergradient"),
        "seed": seed,
        "trial": 0,
        "outer_step": 0,
        "inner_steps": 100,
        "gradient_evals": float(evals),
        "wall_s": evals / 10,
        "outer_loss": best,
        "best_outer_loss": best,
        "status": "complete",
        "failure": "",
        "test_loss": NAN,
        "test_accuracy": NAN,
        "hp/lr": NAN,
    }
    return row | changes


def final(method, seed, evals, best, test_loss, accuracy, **changes):
    """The one row of a cell that touched the test set."""
    tests = {"test_loss": test_loss, "test_accuracy": accuracy}
    return report(method, seed, evals, best, status="final", **tests, **changes)


@pytest.fixture(name="report")
def _report():
    return report


@pytest.fixture(name="final")
def _final():
    return final


@pytest.fixture
def frame():
    """Three methods, two seeds, one task; rows of different cells interleaved.

    Final losses: tpe .30, .40 (median .35); random .50, .50; forward .20, .45.
    """
    rows = [
        report("tpe", 0, 100, 0.6, trial=0, **{"hp/lr": 1.0}),
        report("tpe", 0, 50, NAN, trial=0, status="running", outer_loss=0.9),
        report("tpe", 1, 100, 0.4, trial=0, **{"hp/lr": 2.0}),
        report("tpe", 0, 200, 0.3, trial=1, **{"hp/lr": 0.1}),
        report("tpe", 1, 200, 0.4, trial=1, outer_loss=0.7, **{"hp/lr": 3.0}),
        report("random", 0, 100, 0.5, trial=0, **{"hp/lr": 0.5}),
        report("random", 1, 150, 0.5, trial=1, **{"hp/lr": 0.7}),
        report(
            "random", 1, 50, NAN, trial=0, status="failed", failure="loss is not finite"
        ),
        report("forward", 0, 60, 0.3, trial=0, **{"hp/lr": 0.01}),
        report("forward", 1, 60, 0.8, trial=0, **{"hp/lr": 0.02}),
        report("forward", 1, 120, 0.45, trial=0, **{"hp/lr": 0.04}),
        report("forward", 0, 120, 0.2, trial=0, **{"hp/lr": 0.03}),
        final("tpe", 0, 200, 0.3, 0.33, 0.9, **{"hp/lr": 0.1}),
        final("tpe", 1, 200, 0.4, 0.43, 0.8, **{"hp/lr": 2.0}),
        final("random", 0, 200, 0.5, 0.53, 0.7, **{"hp/lr": 0.5}),
        final("random", 1, 200, 0.5, 0.55, 0.6, **{"hp/lr": 0.7}),
        final("forward", 0, 130, 0.2, 0.21, 0.95, **{"hp/lr": 0.03}),
        final("forward", 1, 130, 0.45, 0.47, 0.85, **{"hp/lr": 0.04}),
    ]
    return pd.DataFrame(rows)
