"""Tables and figures from the tidy frame that a comparison or a training wrote.

It needs pandas and matplotlib only, so a run can be read after its cluster is gone:

    frame = analysis.read("runs/digits")
    print(analysis.format_ranking(analysis.ranking(frame)))
    analysis.write_figures(frame, "runs/digits/figures")
"""

from raymeta.analysis.curves import anytime, draw_anytime
from raymeta.analysis.figures import write_figures
from raymeta.analysis.frames import REQUIRED_COLUMNS, blackbox_target, read
from raymeta.analysis.hparams import hparam_bands, hparam_paths
from raymeta.analysis.loss_curves import draw_loss_curves
from raymeta.analysis.meta_figures import write_training_figures
from raymeta.analysis.meta_frames import (
    format_evaluation,
    held_out,
    is_training,
    read_training,
    training_curve,
)
from raymeta.analysis.meta_loss import draw_meta_loss
from raymeta.analysis.meta_pictures import draw_pictures
from raymeta.analysis.ranking import format_ranking, ranking
from raymeta.analysis.style import save
from raymeta.analysis.trajectories import draw_trajectories

__all__ = [
    "REQUIRED_COLUMNS",
    "anytime",
    "blackbox_target",
    "draw_anytime",
    "draw_loss_curves",
    "draw_meta_loss",
    "draw_pictures",
    "draw_trajectories",
    "format_evaluation",
    "format_ranking",
    "held_out",
    "hparam_bands",
    "hparam_paths",
    "is_training",
    "ranking",
    "read",
    "read_training",
    "save",
    "training_curve",
    "write_figures",
    "write_training_figures",
]
