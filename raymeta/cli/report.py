"""`raymeta report`."""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymeta.cli import output

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
    from raymeta.results.mirror import local
    from raymeta.results.together import put_together

    with ExitStack() as opened:
        paths = [opened.enter_context(local(each)) for each in arguments.folder]
        path = paths[0] if len(paths) == 1 else put_together(paths)
        if arguments.surface:
            with output.progress(arguments, as_json=arguments.json):
                _survey(path, arguments)
        said = summary(path)
    say(said, arguments.json)


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


def summarize(folder: str, *, as_json: bool = False) -> None:
    """Print the ranking or the evaluation; draw figures and page beside the frame.

    Args:
        folder: a folder of results or its address on an object store, or a frame.
        as_json: whether to print it as JSON.

    Raises:
        ValueError: the comparison is not valid; all is printed and drawn nevertheless.
    """
    from raymeta.results.mirror import local

    with local(folder) as path:
        said = summary(path)
    say(said, as_json)


def say(said: dict[str, Any], as_json: bool) -> None:
    """Print a summary.

    Raises:
        ValueError: the comparison is not valid.
    """
    output.print_summary(said, as_json)
    if invalid := said.get("invalid"):
        raise ValueError(f"the comparison in {said['folder']} is {invalid}")


def summary(path: Path, shown: "pd.DataFrame | None" = None) -> dict[str, Any]:
    """What there is to say of results; figures and page are drawn.

    Args:
        path: a folder of results, or a frame.
        shown: the rows of a comparison's frame to report; all by default.

    Returns:
        JSON values: `text` for people, `folder`, `files` that were drawn; of a
        comparison `ranking`, `warnings` and `invalid`, of a training `evaluation`.
    """
    from raymeta import analysis
    from raymeta.results.mirror import address
    from raymeta.results.overfitting import overfitted
    from raymeta.results.validity import reasons_of, sentence

    folder = path if path.is_dir() else path.parent
    said: dict[str, Any] = {"folder": str(address(folder))}
    if analysis.is_training(folder):
        frame = analysis.read_training(folder)
        published = analysis.read_published(folder)
        lines = ["", analysis.format_evaluation(frame, published), ""]
        rows = frame[frame["split"] == "test"].dropna(axis=1, how="all")
        said["evaluation"] = output.records(rows)
    else:
        frame = analysis.read(path) if shown is None else shown
        ranking = analysis.ranking(frame)
        warnings = overfitted(frame)
        lines = ["", analysis.format_ranking(ranking), ""]
        lines += [f"warning: {line}" for line in warnings]
        said["ranking"], said["warnings"] = output.records(ranking), list(warnings)
        said["invalid"] = sentence(reasons_of(frame))
    files = [str(address(file)) for file in analysis.write_report(path, shown)]
    lines += [f"drawn: {file}" for file in files]
    return {**said, "files": files, "text": "\n".join(lines)}
