"""The benchmark of meta-training: what must agree, and a quick run."""

import pandas as pd
import pytest
import torch

from jobs.benchmarks import benchmark_meta as job
from jobs.benchmarks import meta_cases


def test_a_quick_run_agrees_and_writes_its_tables(
    tmp_path, capsys, monkeypatch
) -> None:
    every = job.methods

    def compiled_once(case):
        """All must agree; what is timed, in float32, is not compiled once more."""
        found = every(case)
        if torch.get_default_dtype() == torch.float32:
            found[job.COMPILED] = found[job.RAYMETA]
        return found

    monkeypatch.setattr(job, "methods", compiled_once)
    job.main(["--quick", "--out", str(tmp_path)])
    assert "Figures to reach" in capsys.readouterr().out
    steps = pd.read_parquet(tmp_path / "steps.parquet")
    assert set(steps.groupby("method").size()) == {2}
    assert steps["method"].nunique() == 4
    assert (steps["seconds"] > 0).all()
    workers = pd.read_parquet(tmp_path / "workers.parquet")
    assert sorted(workers["workers"]) == [1, 1, 2, 2]
    assert set(pd.read_parquet(tmp_path / "all_reduce.parquet")["workers"]) == {2}


def test_a_method_that_differs_is_not_timed(monkeypatch) -> None:
    case = job.CASES[0]
    monkeypatch.setattr(
        job,
        "unroll_tasks_with_higher",
        lambda case, network, episodes: meta_cases.unroll_tasks_with_higher(
            case._replace(lr=case.lr + 1e-9), network, episodes
        ),
    )
    with pytest.raises(ArithmeticError, match="is off by"):
        job.require_agreement(case)
