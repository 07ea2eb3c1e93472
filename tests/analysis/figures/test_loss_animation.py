"""The animated loss curve."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from raymeta.analysis import (
    write_loss_animation,
)
from raymeta.analysis.figures.loss_animation import HOLD

NAN = np.nan


def test_the_animation_has_a_frame_per_run_and_rests_on_the_last(tmp_path):
    rows = [
        {"outer_step": k, "inner_steps": t, "outer_loss": 2 - t * k, "hp/lr": k}
        for k in (0.1, 0.5, 0.9)
        for t in (0, 1)
    ]
    curves = pd.DataFrame(rows).assign(outer_step=[0, 0, 1, 1, 2, 2])
    path = write_loss_animation(curves, tmp_path / "new" / "a.gif", title="digits")
    with Image.open(path) as image:
        frames = []
        total = 0
        for place in range(image.n_frames):
            image.seek(place)
            total += image.info["duration"]
            frames.append(np.asarray(image.convert("RGB")))
    assert total == (2 + HOLD) * 500  # a GIF joins equal frames
    assert len(frames) == 3
    assert not (frames[0] == frames[1]).all()


def test_an_animation_needs_a_finite_loss(tmp_path):
    row = {"outer_step": 0, "inner_steps": 0, "outer_loss": NAN}
    with pytest.raises(ValueError, match="needs a finite loss"):
        write_loss_animation(pd.DataFrame([row]), tmp_path / "a.gif")
