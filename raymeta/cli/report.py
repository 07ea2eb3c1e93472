"""`raymeta report`."""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from raymeta.results.mirror import address, local
from raymeta.results.together import put_together

if TYPE_CHECKING:
    import pandas as pd


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What to report, and of which surface."""
    parser.add_argument(
        "folder",
        nargs="+",
        help="a folder of results, or a frame.parquet; several comparisons that "
        "trained on the same are put together in a folder a+b beside the first",
    )
    parser.add_argument(
        "--surface",
        nargs=2,
        metavar=("X", "Y"),
        help="compute the loss over these two hyperparameters, and loss curves along "
        "what was learnt, for the page; charged to no method",
    )
    parser.add_argument(
        "--task",
        metavar="STR",
        help="task of the surface, by name or as path.py:Name (default: every task of "
        "the comparison that has both)",
    )
    parser.add_argument(
        "--points",
        type=int,
        default=11,
        metavar="INT",
        help="points of the surface along each side (default: 11)",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run the task files that the folder names, for the surface: only for a "
        "folder of your own",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print the results of folders; draw figures and page, surfaces if asked for."""
    with ExitStack() as opened:
        paths = [opened.enter_context(local(each)) for each in arguments.folder]
        path = paths[0] if len(paths) == 1 else put_together(paths)
        if arguments.surface:
            _survey(path, arguments)
        _summarize(path)


def _survey(path: Path, arguments: argparse.Namespace) -> None:
    """Compute surfaces and loss curves of a comparison, with live progress."""
    from raymeta import tasks
    from raymeta.cli.landscape import write_landscape
    from raymeta.runtime.progress import Progress

    display = Progress(True)

    def show(name: str, done: int, total: int) -> None:
        if not done:
            display.print([f"{name}: {total} runs, not charged"])
        display.update(lambda width: [f"{name}: {done} of {total} runs"[:width]])

    given = [tasks.get(arguments.task)] if arguments.task else None
    write_landscape(
        path,
        arguments.surface,
        given,
        points=arguments.points,
        progress=show,
        trust=arguments.trust,
    )


def summarize(folder: str, shown: "pd.DataFrame | None" = None) -> None:
    """Print the ranking or the evaluation; draw figures and page beside the frame.

    Args:
        folder: a folder of results or its address on an object store, or a frame.
        shown: the rows of a comparison's frame to report; all by default.

    Raises:
        ValueError: the comparison is not valid; all is printed and drawn nevertheless.
    """
    with local(folder) as path:
        _summarize(path, shown)


def _summarize(path: Path, shown: "pd.DataFrame | None" = None) -> None:
    from raymeta import analysis
    from raymeta.results.overfitting import overfitted
    from raymeta.results.validity import reasons_of, sentence

    folder, invalid = path if path.is_dir() else path.parent, ""
    if analysis.is_training(folder):
        frame = analysis.read_training(folder)
        published = analysis.read_published(folder)
        print("\n" + analysis.format_evaluation(frame, published) + "\n")
    else:
        frame = analysis.read(path) if shown is None else shown
        invalid = sentence(reasons_of(frame))
        print("\n" + analysis.format_ranking(analysis.ranking(frame)) + "\n")
        for line in overfitted(frame):
            print(f"warning: {line}")
    for file in analysis.write_report(path, shown):
        print(f"drawn: {address(file)}")
    if invalid:
        raise ValueError(f"the comparison in {address(folder)} is {invalid}")
