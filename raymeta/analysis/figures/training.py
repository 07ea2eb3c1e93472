"""Every figure of a meta-training run, written into its folder."""

from pathlib import Path

import numpy as np
import pandas as pd

from raymeta.analysis.figures import style
from raymeta.analysis.figures.meta_loss import draw_meta_loss
from raymeta.analysis.figures.predictions import draw_pictures
from raymeta.analysis.tables.training import read_published
from raymeta.results.integrity import DamagedFile


def write_training_figures(frame: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Draw all figures of a meta-training run.

    Args:
        frame: see `read_training`.
        folder: the run's, where what was learnt lies beside the frame.

    Returns:
        The files, PNG and SVG each: `meta_loss`, and `learnt_seed_<seed>` for each seed
        that has pictures.
    """
    folder = Path(folder)
    figure = draw_meta_loss(frame, read_published(folder))
    files = style.save(figure, folder / "meta_loss")
    for seed in sorted(frame["seed"].unique()):
        pictures = folder / f"seed-{seed}" / "pictures.npz"
        if pictures.exists():
            figure = draw_pictures(_arrays(pictures))
            files += style.save(figure, folder / f"learnt_seed_{seed}")
    return files


def _arrays(file: Path) -> dict[str, np.ndarray]:
    """What a file of arrays holds; nothing in it is run."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # of many kinds, from a file of any kind
        reason = f"it holds no arrays ({type(error).__name__})"
        raise DamagedFile(
            file, reason, "delete it, and that figure stays away"
        ) from None
