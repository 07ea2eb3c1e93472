"""The plan for larger clusters: what it measures here, and what it works out."""

import json

import pytest

from jobs.benchmarks import capacity, driver


def test_a_small_run_measures_the_driver_and_a_step(tmp_path, capsys) -> None:
    file = tmp_path / "costs.json"
    small = ["--trials", "40", "--ray-trials", "0", "--cells", "3", "--reports", "999"]
    capacity.main([*small, "--json", str(file)])
    costs = json.loads(file.read_text())
    alone = capacity.Driver(**costs["without_ray"])
    assert alone.measured == 42  # as many, one for the test set, the end
    assert alone.trial_s > 0
    assert alone.trial_disk > 0
    books = driver.Bookkeeping(**costs["books"])
    assert (books.cells, books.reports) == (3, 999)
    assert books.report_bytes < books.object_bytes / 3
    # The weights of 1-40-40-1, in float32.
    assert costs["training"]["gradient_bytes"] == 4 * (80 + 1640 + 41)
    shown = capsys.readouterr().out
    assert "first limit: " in shown
    assert "ask beside 3 finished cells" in shown


def test_a_trial_that_costs_more_than_the_one_before_adds_up() -> None:
    driver = capacity.Driver(100, 0.1, 0.0, 0.0, growth_s=0.001, save_s=0.0)
    # The first costs .1 - .05; the 200th .2 more.
    assert driver.seconds(200) == pytest.approx(200 * (0.05 + 0.1))


def test_what_is_missed_is_said() -> None:
    alone = driver.Driver(100, 6e-3, 1e3, 0.0, 0.0, 0.0)
    books = driver.Bookkeeping(1000, 0.5e-3, 100_000, 2.5, 90.0, 900.0)
    _, _, trial, ask, frame, *_ = driver.target_lines(alone, books)
    assert trial.endswith("| 6 ms | 5 ms | MISSED |")
    assert ask.endswith("finished cells | 0.5 ms | 1 ms | reached |")
    assert frame.endswith("| 2.50 s | 2.00 s | MISSED |")


def test_the_tightest_limit_is_named() -> None:
    settings = capacity.parser().parse_args(["--trial-minutes", "1", "--cpus", "500"])
    driver = capacity.Driver(100, 0.001, 1e3, 0.0, 0.0, 0.0)
    line = capacity.first_limit(driver, settings)
    assert line.startswith("first limit: CPUs of cluster.yaml's max_workers, at 0.5 ")
    slow = driver._replace(trial_s=0.3)
    assert "keeps busy (its rate), at 0.2 times" in capacity.first_limit(slow, settings)
