"""Reproductions: each runs in a reduced form; what they compute, against truth."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from jobs.experiments import reproduce as job
from jobs.experiments.reproductions import (
    hyper_cleaning,
    quadratic,
    reversible_learning,
)
from jobs.experiments.reproductions.base import Claim, Scale, values

REDUCED = Scale(reduced=True, mnist=None)


@pytest.mark.slow
@pytest.mark.parametrize("name", job.ALL)
def test_each_runs_and_is_not_run_again(name, tmp_path):
    what = job.ALL[name]
    assert job.reproduce(what, REDUCED, tmp_path) == []
    place = tmp_path / f"{name}-reduced"
    frame = pd.read_parquet(place / "frame.parquet")
    assert list(frame) == ["metric", "step", "value", "setting", "seed"]
    assert np.isfinite(frame["value"]).all()
    assert {file.suffix for file in place.glob(f"{name}.*")} == {".png", ".svg"}

    def again(*_: object) -> None:
        raise AssertionError("a run that is there was run again")

    job.reproduce(replace(what, run=again), REDUCED, tmp_path)


@pytest.mark.parametrize(
    ("ours", "lower_is_better", "verdict"),
    [
        ([1.0, 1.1], True, "within"),
        ([0.4, 0.6], True, "better"),
        ([0.4, 0.6], False, "worse"),
        ([1.5], True, "worse"),
        ([1.5], False, "better"),
        ([], True, "not run"),
    ],
)
def test_verdicts(ours, lower_is_better, verdict):
    assert Claim("of", "1", 0.9, 1.2, ours, lower_is_better).verdict == verdict


def test_half_width_is_students():
    claim = Claim("of", "1", 0.0, 2.0, [1.0, 2.0, 3.0])
    assert claim.half_width == pytest.approx(4.302652729749464 / 3**0.5, rel=1e-12)


def test_values_are_the_last_of_each_seed():
    rows = [("a", 0, "m", 1, 5.0), ("a", 0, "m", 2, 6.0), ("a", 1, "m", 1, 7.0)]
    frame = pd.DataFrame(rows, columns=["setting", "seed", "metric", "step", "value"])
    assert values(frame, "a", "m") == [6.0, 7.0]
    assert values(frame, "a", "m", 1) == [5.0, 7.0]
    assert values(frame, "b", "m") == []


def test_projection_is_the_nearest_point(float64):
    x = torch.randn(40, generator=torch.Generator().manual_seed(0)) + 0.5
    found = hyper_cleaning.projected(x, 10.0)
    assert float(found.sum()) == pytest.approx(10.0, abs=1e-6)
    # The optimality condition: one shift for all that are strictly inside.
    inside = (found > 0) & (found < 1)
    shifts = (x - found)[inside]
    assert float(shifts.max() - shifts.min()) < 1e-9
    assert bool((x[found == 0] <= shifts[0]).all())
    assert bool((x[found == 1] >= 1 + shifts[0]).all())
    assert torch.equal(hyper_cleaning.projected(x, 1e3), x.clamp(0, 1))


def test_velocity_is_that_of_the_authors_code(float64):
    log_alpha, logit_beta = torch.randn(3, 1), torch.randn(3, 1)
    rule = reversible_learning.velocity_sgd(log_alpha, logit_beta, ["w"])
    w, v = torch.randn(5), torch.zeros(5)
    params, memory = {"w": w}, rule.init({"w": w})
    for t in range(3):
        g = torch.randn(5)
        params, memory = rule.update({"w": g}, memory, params, torch.tensor(t))
        beta = logit_beta[t].sigmoid()
        v = v * beta - (1.0 - beta) * g
        w = w + log_alpha[t].exp() * v
        torch.testing.assert_close(params["w"], w, rtol=1e-14, atol=0)


def test_a_folder_without_mnist_is_told(tmp_path):
    with pytest.raises(ValueError, match="--mnist needs the folder"):
        job.reproduce(job.ALL["towers"], Scale(True, str(tmp_path)), tmp_path)


def test_characters_are_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"few-shot reads .* but got no --omniglot"):
        job.reproduce(job.ALL["few-shot"], Scale(False, None), tmp_path)


def test_the_page_has_a_table_for_each_that_was_run(tmp_path, monkeypatch):
    what = replace(job.ALL["quadratic"], settings=lambda scale: ["long"])
    monkeypatch.setattr(quadratic, "HYPER_STEPS", 2)
    job.reproduce(what, Scale(False, None), tmp_path)
    page = job.page(tmp_path)
    assert f"## {what.title}" in page
    assert job.ALL["maml"].title not in page
    rows = [line for line in page.splitlines() if line.startswith("| E at α = .01")]
    assert rows == [rows[0]]
    assert "| 0.7991 | 1 | within |" in rows[0]
