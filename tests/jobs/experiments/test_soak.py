"""Soaks: what grows is told, and what does not is flat."""

import pytest

from jobs.experiments import soak as job
from jobs.experiments.soak import Look, Row


def test_hyper_steps_leave_nothing_open():
    row = job.soak("quadratic", 100)
    assert (row.part, row.number, row.handles) == ("quadratic", 100, 0)
    assert row.megabytes > 50


@pytest.mark.parametrize(
    ("looks", "growth", "handles"),
    [
        ([Look(100, 9)] * 10 + [Look(200, 9)] * 40, 0.0, 0),  # the warm-up
        ([Look(100 + k, 9) for k in range(50)], 36 / 111.5, 0),
        ([Look(100, 9 + k // 45) for k in range(50)], 0.0, 1),
    ],
)
def test_what_grows_is_told(looks, growth, handles, monkeypatch, capsys):
    monkeypatch.setitem(job.PARTS, "quadratic", (50, lambda count: iter(looks)))
    row = job.soak("quadratic", 50)
    assert row.growth == pytest.approx(growth, abs=1e-6)
    assert row.handles == handles
    flat = growth == 0 and handles == 0
    assert row.flat == flat
    if flat:
        job.main(["--parts", "quadratic"])
    else:
        with pytest.raises(SystemExit, match="soak: grew: quadratic"):
            job.main(["--parts", "quadratic"])
    assert "| quadratic | 50 |" in capsys.readouterr().out


def test_too_short_a_soak_is_refused():
    with pytest.raises(ValueError, match=r"quadratic had 4 in 0 s: give it a larger"):
        job.soak("quadratic", 4)
    assert not Row("a", 1, 1.0, 1.0, 0.021, 0).flat
