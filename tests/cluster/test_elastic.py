"""Training goes on with the workers that are there."""

import os
import subprocess
import sys
from pathlib import Path

import elastic_run
import pandas as pd
import pytest
import train_toys

from raymeta.train import train

pytestmark = [pytest.mark.ray, pytest.mark.simulation, pytest.mark.timeout(900)]


def test_a_run_grows_and_shrinks_with_its_cluster(tmp_path):
    program = Path(elastic_run.__file__)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "TUNE_"))}
    done = subprocess.run(
        [sys.executable, program, tmp_path],
        env=clean | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"},
        timeout=600,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert "workers have come" in done.stdout, done.stdout
    assert "workers were lost" in done.stdout
    far = pd.read_parquet(tmp_path / "far" / "frame.parquet")
    rows = far.query("split == 'train'")
    attempts = rows.groupby("attempt")["workers"].agg(["min", "max"])
    assert attempts.to_numpy().tolist() == [[1, 1], [2, 2], [1, 1]]
    # The mean over all tasks of a step, whoever did them.
    here = train(
        train_toys.config(**elastic_run.SETTINGS),
        name="here",
        storage=tmp_path,
        progress=False,
    )
    test = far.query("split == 'test'")
    assert test["outer_loss"].tolist() == pytest.approx(
        here.evaluation["outer_loss"].tolist(), rel=1e-9
    )
