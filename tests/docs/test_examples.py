"""The scripts of docs/examples run, from top to bottom; what they assert holds."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "docs/examples").glob("plot_*.py"))
#: Those that start Ray.
WITH_RAY = {"plot_2_settle.py", "plot_3_workers.py"}


@pytest.mark.parametrize(
    "script", [e for e in EXAMPLES if e.name not in WITH_RAY], ids=lambda e: e.stem
)
def test_an_example_runs(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runpy.run_path(str(script))["figure"].axes


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("name", sorted(WITH_RAY))
def test_an_example_with_ray_runs(name, tmp_path, monkeypatch):
    (script,) = (e for e in EXAMPLES if e.name == name)
    monkeypatch.chdir(tmp_path)
    assert runpy.run_path(str(script))["figure"].axes
