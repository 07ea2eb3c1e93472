"""Tables and figures from the tidy frame that a comparison wrote.

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
from raymeta.analysis.ranking import format_ranking, ranking
from raymeta.analysis.style import save
from raymeta.analysis.trajectories import draw_trajectories

__all__ = [
    "REQUIRED_COLUMNS",
    "anytime",
    "blackbox_target",
    "draw_anytime",
    "draw_loss_curves",
    "draw_trajectories",
    "format_ranking",
    "hparam_bands",
    "hparam_paths",
    "ranking",
    "read",
    "save",
    "write_figures",
]
