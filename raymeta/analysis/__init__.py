"""Tables and figures from the tidy frame that a comparison or a training wrote.

It needs neither torch nor Ray, so a run can be read after its cluster is gone:

    frame = analysis.read("runs/digits")
    print(analysis.format_ranking(analysis.ranking(frame)))
    print(analysis.final_differences(frame))
    analysis.write_report("runs/digits")
"""

from raymeta.analysis.figures.anytime import draw_anytime
from raymeta.analysis.figures.comparison import write_figures
from raymeta.analysis.figures.critical_difference import draw_ranks
from raymeta.analysis.figures.diagnosis import draw_diagnosis
from raymeta.analysis.figures.loss_animation import write_loss_animation
from raymeta.analysis.figures.loss_curves import draw_loss_curves
from raymeta.analysis.figures.loss_rows_3d import draw_curve_row
from raymeta.analysis.figures.meta_loss import draw_meta_loss
from raymeta.analysis.figures.performance_profile import draw_performance_profile
from raymeta.analysis.figures.predictions import draw_pictures
from raymeta.analysis.figures.style import save
from raymeta.analysis.figures.surfaces import draw_surface
from raymeta.analysis.figures.training import write_training_figures
from raymeta.analysis.figures.trajectories import draw_trajectories
from raymeta.analysis.report import write_report
from raymeta.analysis.tables.anytime import anytime
from raymeta.analysis.tables.area import area_under_curve
from raymeta.analysis.tables.bootstrap import bootstrap_mean, final_differences
from raymeta.analysis.tables.frames import blackbox_target, read
from raymeta.analysis.tables.hparams import hparam_bands, hparam_paths
from raymeta.analysis.tables.incumbents import best_hparams, learnt_hparams
from raymeta.analysis.tables.profiles import performance_profile
from raymeta.analysis.tables.ranking import format_ranking, ranking
from raymeta.analysis.tables.ranks import (
    Ranks,
    critical_difference,
    mean_ranks,
    task_scores,
)
from raymeta.analysis.tables.result_grid import from_result_grid
from raymeta.analysis.tables.targets import target_summary, to_target
from raymeta.analysis.tables.training import (
    format_evaluation,
    held_out,
    is_training,
    read_published,
    read_training,
    training_curve,
)
from raymeta.results.schema import REQUIRED_COLUMNS

__all__ = [
    "REQUIRED_COLUMNS",
    "Ranks",
    "anytime",
    "area_under_curve",
    "best_hparams",
    "blackbox_target",
    "bootstrap_mean",
    "critical_difference",
    "draw_anytime",
    "draw_curve_row",
    "draw_diagnosis",
    "draw_loss_curves",
    "draw_meta_loss",
    "draw_performance_profile",
    "draw_pictures",
    "draw_ranks",
    "draw_surface",
    "draw_trajectories",
    "final_differences",
    "format_evaluation",
    "format_ranking",
    "from_result_grid",
    "held_out",
    "hparam_bands",
    "hparam_paths",
    "is_training",
    "learnt_hparams",
    "mean_ranks",
    "performance_profile",
    "ranking",
    "read",
    "read_published",
    "read_training",
    "save",
    "target_summary",
    "task_scores",
    "to_target",
    "training_curve",
    "write_figures",
    "write_loss_animation",
    "write_report",
    "write_training_figures",
]
