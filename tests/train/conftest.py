"""Toys that workers can unpickle; a run in this process."""

import sys
from pathlib import Path

import pytest

from raymeta.train import train

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import train_toys


@pytest.fixture
def here(tmp_path):
    """Train the toy in this process: here(name, **changes of its config)."""

    def run(name="x", *, progress=False, **changes):
        config = train_toys.config(**changes)
        return train(config, name=name, storage=tmp_path, progress=progress)

    return run
