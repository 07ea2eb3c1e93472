"""Writing the report of a folder: a comparison's or a training's."""

from pathlib import Path

import pandas as pd

from raymeta.analysis.figures.comparison import write_figures, write_surface_figures
from raymeta.analysis.figures.training import write_training_figures
from raymeta.analysis.report.comparison import comparison_page
from raymeta.analysis.report.record import domains, read_settings
from raymeta.analysis.report.training import training_page
from raymeta.analysis.tables.frames import read
from raymeta.analysis.tables.training import is_training, read_training
from raymeta.results.atomic import atomic_write

REPORT = "report.html"


def write_report(path: str | Path, shown: pd.DataFrame | None = None) -> list[Path]:
    """Draw all figures of a run, and write them with its tables into one page.

    The page, `report.html`, loads nothing from anywhere: it can be mailed.

    Args:
        path: the folder of a comparison or a training, or the frame in it.
        shown: the rows of a comparison's frame to report; all by default.

    Returns:
        The files that were written, the page last.

    Raises:
        ValueError: the frame is missing, unreadable, or lacks a column.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if is_training(folder):
        frame = read_training(folder)
        figures = write_training_figures(frame, folder)
        page = training_page(frame, folder)
    else:
        frame = read(path) if shown is None else shown
        figures = write_figures(frame, folder, domains(read_settings(folder)))
        figures += write_surface_figures(frame, folder)
        page = comparison_page(frame, folder, part=shown is not None)
    report = folder / REPORT
    with atomic_write(report) as file:  # never through a link that the folder has
        file.write(page.encode())
    return [*figures, report]
