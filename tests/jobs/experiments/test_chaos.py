"""Faults of jobs.experiments.chaos, once each: those that no other test injects."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FAULTS = [
    "a full disk",
    "a disk read-only after an error",
    "an object store that answers 503",
    "a clock that jumps back",
]


@pytest.mark.slow
def test_disturbed_runs_find_what_undisturbed_ones_find(tmp_path):
    command = [sys.executable, "-m", "jobs.experiments.chaos", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--times", "1", "--fault", *FAULTS],
        **{"cwd": ROOT, "capture_output": True, "text": True},
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    said = done.stdout + done.stderr
    lines = (tmp_path / "chaos.jsonl").read_text().splitlines()
    outcomes = {each["fault"]: each for each in map(json.loads, lines)}
    assert done.returncode == 0, said
    left_out = [name for name in FAULTS if f"{name}: left out" in said]
    assert sorted([*outcomes, *left_out]) == sorted(FAULTS)
    if "a full disk" in outcomes:
        assert outcomes["a full disk"]["code"] == 2
        assert outcomes["a full disk"]["resumed"] == 1
