"""The model of an all-reduce's time, by hand."""

import pandas as pd
import pytest

from jobs.benchmarks import all_reduce


def test_the_model_finds_the_latency_and_the_bandwidth_it_was_made_of() -> None:
    truth = all_reduce.AllReduce(latency=3e-5, seconds_per_byte=2e-9)
    rows = [
        (workers, size, 0, truth.seconds(size, workers))
        for workers in (2, 4, 8)
        for size in (2**10, 2**16, 2**22)
    ]
    columns = ["workers", "bytes", "round", "seconds"]
    model = all_reduce.fitted(pd.DataFrame(rows, columns=columns))
    assert model == pytest.approx(truth, rel=1e-9)


def test_a_ring_of_eight_by_hand() -> None:
    model = all_reduce.AllReduce(latency=1e-3, seconds_per_byte=1e-6)
    # Fourteen messages, each of an eighth of 8,000 bytes.
    assert model.seconds(8000, 8) == pytest.approx(14 * (1e-3 + 1000 * 1e-6))
    table = all_reduce.extrapolated(model, 8000, computing=0.028, workers=[1, 8])
    assert list(table["share"]) == pytest.approx([0.0, 0.5])
    assert list(table["speedup"]) == pytest.approx([1.0, 4.0])
