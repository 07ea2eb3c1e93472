"""The benchmark of meta-training: its model of an all-reduce, and a quick run."""

import importlib
from types import ModuleType

import pandas as pd
import pytest


@pytest.fixture(scope="module")
def jobs():
    return lambda name: importlib.import_module(f"jobs.benchmarks.{name}")


@pytest.fixture
def ring(jobs) -> ModuleType:
    return jobs("all_reduce")


def test_the_model_finds_the_latency_and_the_bandwidth_it_was_made_of(ring) -> None:
    truth = ring.AllReduce(latency=3e-5, seconds_per_byte=2e-9)
    rows = [
        (workers, size, 0, truth.seconds(size, workers))
        for workers in (2, 4, 8)
        for size in (2**10, 2**16, 2**22)
    ]
    columns = ["workers", "bytes", "round", "seconds"]
    model = ring.fitted(pd.DataFrame(rows, columns=columns))
    assert model == pytest.approx(truth, rel=1e-9)


def test_a_ring_of_eight_by_hand(ring) -> None:
    model = ring.AllReduce(latency=1e-3, seconds_per_byte=1e-6)
    # Fourteen messages, each of an eighth of 8,000 bytes.
    assert model.seconds(8000, 8) == pytest.approx(14 * (1e-3 + 1000 * 1e-6))
    table = ring.extrapolated(model, 8000, computing=0.028, workers=[1, 8])
    assert list(table["share"]) == pytest.approx([0.0, 0.5])
    assert list(table["speedup"]) == pytest.approx([1.0, 4.0])


def test_a_quick_run_agrees_and_writes_its_tables(jobs, tmp_path, capsys) -> None:
    jobs("benchmark_meta").main(["--quick", "--out", str(tmp_path)])
    assert "Figures to reach" in capsys.readouterr().out
    steps = pd.read_parquet(tmp_path / "steps.parquet")
    assert set(steps.groupby("method").size()) == {2}
    assert steps["method"].nunique() == 4
    assert (steps["seconds"] > 0).all()
    workers = pd.read_parquet(tmp_path / "workers.parquet")
    assert sorted(workers["workers"]) == [1, 1, 2, 2]


def test_a_method_that_differs_is_not_timed(jobs, monkeypatch) -> None:
    job = jobs("benchmark_meta")
    case = job.CASES[0]
    monkeypatch.setattr(
        job,
        "unroll_tasks_with_higher",
        lambda case, network, episodes: jobs("meta_cases").unroll_tasks_with_higher(
            case._replace(lr=case.lr + 1e-9), network, episodes
        ),
    )
    with pytest.raises(ArithmeticError, match="is off by"):
        job.require_agreement(case)
