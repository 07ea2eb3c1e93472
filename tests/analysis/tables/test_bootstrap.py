import itertools

import numpy as np
import pandas as pd
import pytest

from raymeta.analysis import final_differences
from raymeta.analysis.tables.bootstrap import bootstrap_mean

NAN = np.nan


def test_percentiles_against_all_resamples():
    values = np.array([0.3, -1.0, 2.0, 0.7, 5.0])
    means = [np.mean(c) for c in itertools.product(values, repeat=len(values))]
    found = bootstrap_mean(values, method="percentile", level=0.8)
    assert found.mean == pytest.approx(1.4)
    low, high = np.quantile(means, [0.1, 0.9])
    # 9,999 of the 3,125 resamples: a few of their steps, which are .1 or so.
    assert found.low == pytest.approx(low, abs=0.1)
    assert found.high == pytest.approx(high, abs=0.1)


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_many_normal_values_give_the_normal_interval(method):
    values = np.random.default_rng(1).normal(2.0, 3.0, size=400)
    half = 1.96 * values.std() / 20
    found = bootstrap_mean(values, method=method)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_skewed_values_lean_the_bca_interval_the_right_way():
    values = np.random.default_rng(0).exponential(size=60)
    plain = bootstrap_mean(values, method="percentile")
    bca = bootstrap_mean(values)
    assert bca.low > plain.low
    assert bca.high > plain.high


@pytest.mark.parametrize(("n", "expected"), [(3, 0.75), (5, 0.84), (20, 0.93)])
def test_coverage_is_as_documented(n, expected):
    rng, trials = np.random.default_rng(n), 120
    covers = []
    for _ in range(trials):
        found = bootstrap_mean(rng.normal(size=n))
        covers.append(found.low <= 0 <= found.high)
    error = 3 * np.sqrt(expected * (1 - expected) / trials)
    assert np.mean(covers) == pytest.approx(expected, abs=error)


def test_the_same_values_have_the_same_interval():
    values = np.array([0.1, 0.4, -0.2, 0.3])
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values)


def test_equal_or_single_values_have_no_spread_to_resample():
    assert bootstrap_mean([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5)
    mean, low, high = bootstrap_mean([0.5])
    assert (mean, np.isnan([low, high]).all()) == (0.5, True)


def test_differences_are_taken_within_seeds(report):
    rows = []
    for seed, level in enumerate([1.0, 5.0, 9.0]):  # seeds differ far more than methods
        rows += [
            report("tpe", seed, 10, level),
            report("forward", seed, 10, level - 0.1),
            report("random", seed, 10, level + 0.2 + 0.1 * seed),
        ]
    table = final_differences(pd.DataFrame(rows)).set_index("method")
    assert set(table["reference"]) == {"forward"}
    tpe = table.loc["tpe", ["difference", "low", "high"]].astype(float)
    assert tpe.tolist() == pytest.approx([0.1, 0.1, 0.1])
    random = table.loc["random"]
    assert random["difference"] == pytest.approx(0.4)
    assert 0.3 - 1e-9 <= random["low"] < 0.4 < random["high"] <= 0.5 + 1e-9
    against = final_differences(pd.DataFrame(rows), "tpe").set_index("method")
    assert against.loc["forward", "difference"] == pytest.approx(-0.1)
    assert against.loc["forward", ["better", "seeds"]].tolist() == [3, 3]


def test_seeds_without_a_value_are_left_out_and_counted(report):
    rows = [report("tpe", seed, 10, 0.5) for seed in range(3)]
    rows += [report("forward", seed, 10, 0.4) for seed in range(2)]
    rows += [report("forward", 2, 10, NAN)]
    (row,) = final_differences(pd.DataFrame(rows)).itertuples()
    assert (row.method, row.reference, row.seeds) == ("tpe", "forward", 2)


def test_an_unknown_reference_is_named(frame):
    with pytest.raises(ValueError, match="got 'tpee': pass one of forward"):
        final_differences(frame, "tpee")
