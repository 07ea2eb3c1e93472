"""Peaks are those of whole trials, and grow with T as the estimators' do."""

import pytest

from jobs.benchmarks.peak_memory import main, peak_bytes, peaks
from raymeta.tasks import Digits, Quadratic


def test_forward_mode_does_not_grow_with_the_run_and_reverse_mode_does():
    short, long = (
        {row.method: row for row in peaks(Quadratic(horizon=t), names, runs=9)}
        for t in (20, 80)
        for names in [("random", "long_term", "forward")]
    )
    assert short["random"].over_plain == 1
    assert long["random"].bytes == short["random"].bytes
    # What is left is the descent's own: the points that it has seen.
    assert long["forward"].bytes < 1.25 * short["forward"].bytes
    assert long["long_term"].bytes > 2 * short["long_term"].bytes


def test_a_peak_is_the_same_again():
    first, again = (peak_bytes(Digits(horizon=4), "long_term", 4, 0) for _ in "ab")
    assert again == first


@pytest.mark.parametrize(
    ("name", "runs", "told"),
    [
        ("tpe_descent", 9, "'tpe_descent' is a search and then a descent: ask for"),
        ("long_term", 1, "'long_term' takes at least 61 .* --runs 1 are 20.33: give"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(name, runs, told):
    with pytest.raises(ValueError, match=told):
        peaks(Quadratic(), [name], runs)


def test_the_table(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["peak_memory", "--tasks", "quadratic"])
    main()
    rows = capsys.readouterr().out.splitlines()
    assert rows[2].startswith("| `quadratic` | `random` | ")
    assert len(rows) == 7
    monkeypatch.setattr("sys.argv", ["peak_memory", "--tasks", "quadratik"])
    with pytest.raises(SystemExit):
        main()
    assert "quadratic" in capsys.readouterr().err
