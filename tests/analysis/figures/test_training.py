"""All figures of a meta-training run's folder."""

import json

import numpy as np
import pytest

from raymeta.analysis import (
    is_training,
    read_published,
    read_training,
    write_training_figures,
)
from tests.support.drawn import images


def test_all_figures_of_a_folder(training, tmp_path, published):
    assert not is_training(tmp_path)
    record = {"algorithm": "maml", "family": "sinusoid", "runs": []}
    (tmp_path / "training.json").write_text(
        json.dumps({**record, "published": [published]})
    )
    assert is_training(tmp_path)
    with pytest.raises(ValueError, match=r"frame.parquet does not exist"):
        read_training(tmp_path)
    training.to_parquet(tmp_path / "frame.parquet")
    assert read_published(tmp_path) == [published]
    (tmp_path / "seed-1").mkdir()
    np.savez(tmp_path / "seed-1" / "pictures.npz", **images())

    files = write_training_figures(read_training(tmp_path), tmp_path)

    assert [path.name for path in files] == [
        "meta_loss.png", "meta_loss.svg", "learnt_seed_1.png", "learnt_seed_1.svg",
    ]  # fmt: skip
    assert all(path.stat().st_size > 5000 for path in files)

    training.drop(columns="split").to_parquet(tmp_path / "frame.parquet")
    with pytest.raises(ValueError, match="lacks split: it is no training's frame"):
        read_training(tmp_path)
