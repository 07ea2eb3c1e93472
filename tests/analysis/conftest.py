"""Small frames, written by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from raymeta.results.schema import KEY, VERSION

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
    """The one row of a study that touched the test set."""
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
    """Three methods, two seeds, one task; rows of different studies interleaved.

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
    frame = pd.DataFrame(rows)
    frame.attrs[KEY] = VERSION
    return frame


@pytest.fixture
def published():
    """Return a figure that a paper reports."""
    return {
        "value": 1.4,
        "ci95": 0.2,
        "inner_steps": 1,
        "outer_steps": 5_000,
        "source": "Someone 2019, table 1",
    }


def meta_row(split, outer_step, outer_loss, **changes):
    usual = {
        "algorithm": "maml",
        "family": "sinusoid",
        "seed": 0,
        "split": split,
        "outer_step": outer_step,
        "rank": 0,
        "workers": 2,
        "attempt": 1,
        "tasks": 100,
        "inner_steps": 1,
        "outer_loss": outer_loss,
        "ci95": NAN if split == "train" else 0.3,
        "median": NAN if split == "train" else outer_loss / 2,
        "grad_norm": NAN,
        "skipped": False,
        "step_s": 0.1,
        "wall_s": 1.0,
        "accuracy": 0.5,
        "accuracy_ci95": NAN if split == "train" else 0.02,
    }
    return usual | changes


@pytest.fixture
def training():
    """Two seeds, two ranks of 1 and 3 tasks, 200 steps; the loss of step t is t."""
    rows = [
        meta_row("train", t, t + 100 * seed, seed=seed, rank=rank, tasks=tasks)
        for t in range(200)
        for seed in (0, 1)
        for rank, tasks in ((0, 1), (1, 3))
    ]
    rows[4:8] = [r | {"skipped": True, "outer_loss": math.inf} for r in rows[4:8]]
    for seed, loss in ((0, 2.0), (1, 4.0)):
        rows += [meta_row("val", t, loss, seed=seed) for t in (0, 200)]
        rows += [
            meta_row(
                "test", 200, loss / (1 + n), seed=seed, inner_steps=n, ci95=0.3 + seed
            )
            for n in range(3)
        ]
    return pd.DataFrame(rows)


@pytest.fixture
def walks(report, final):
    """An online descent of two runs, one of whole runs, and two random trials."""

    def at(method, evals, best, lr, mu, **more):
        values = {"hp/lr": lr, "hp/momentum": mu, **more}
        return report(method, 0, evals, best, **values)

    steps = [(20, 0.9), (40, 0.8), (60, 0.7), (80, 0.65), (100, 0.6)]
    first = [
        at("short_term", t, NAN, 0.01, 0.0, inner_steps=t, outer_loss=loss + 1)
        for t, loss in steps
    ]
    second = [
        at("short_term", 100 + t, loss, 0.01 * t, 0.2, inner_steps=t, outer_loss=loss)
        for t, loss in steps
    ]
    for run in (first, second):
        for row in run[:-1]:
            row["status"] = "running"
    first[-1] |= {"best_outer_loss": 1.6}
    whole = [
        at("long_term", 50, NAN, 0.01, 0.0, status="running", inner_steps=50),
        at("long_term", 200, 0.9, 0.02, 0.1),
        at("long_term", 300, 0.9, 0.2, 0.1, outer_loss=1.5),
        at("long_term", 400, 0.5, 0.05, 0.4),
    ]
    trials = [at("random", 100, 0.7, 0.5, 0.3), at("random", 200, 0.7, 0.01, 0.1)]
    trials[1]["outer_loss"] = 0.8
    ends = [final("long_term", 0, 400, 0.5, 0.5, 0.9, **{"hp/lr": 0.05})]
    return pd.DataFrame([*first, *second, *whole, *trials, *ends])


@pytest.fixture
def surface():
    """Losses 1 → lr + momentum; lr 1 diverges at momentum .5."""
    rows = [
        {
            "task": "digits",
            "seed": 0,
            "inner_steps": t,
            "outer_loss": NAN if t and (lr, mu) == (1, 0.5) else 1 + t * (lr + mu - 1),
            "hp/lr": lr,
            "hp/momentum": mu,
            "hp/decay": 0.1,
        }
        for lr in (0.01, 0.1, 1.0)
        for mu in (0.0, 0.5)
        for t in (0, 1)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


@pytest.fixture
def curves():
    """Three hyper-steps, shuffled; the second diverges after its first report."""
    rows = [
        (2, 0, 1.0),
        (0, 10, 0.8),
        (0, 0, 1.0),
        (1, 0, 1.0),
        (1, 10, NAN),
        (2, 10, 0.4),
        (1, 20, np.inf),
        (3, 0, NAN),
    ]
    return pd.DataFrame(rows, columns=["outer_step", "inner_steps", "outer_loss"])
