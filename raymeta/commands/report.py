"""`raymeta report`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raymeta.storage import address, at, is_remote


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What to report, and of which surface."""
    parser.add_argument("folder", help="a folder of results, or a frame.parquet")
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
        help="of the surface, by name or as path.py:Name (default: every task of the "
        "comparison that has both)",
    )
    parser.add_argument(
        "--points",
        type=int,
        default=11,
        metavar="INT",
        help="of the surface along each side (default: 11)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print the results of a folder; draw figures and page, surfaces if asked for."""
    path = arguments.folder.rstrip("/")
    with at(
        path.rpartition("/")[0] if is_remote(path) else ".", Path(path).name
    ) as here:
        found = here / Path(path).name if is_remote(path) else Path(path)
        if arguments.surface:
            _survey(found, arguments.surface, arguments.task, arguments.points)
        summarize(found)


def _survey(path: Path, names: Sequence[str], task: str | None, points: int) -> None:
    """Compute surfaces and loss curves of a comparison; write them beside its frame."""
    import pandas as pd

    from raymeta import analysis, tasks
    from raymeta.folder import write_frame
    from raymeta.progress import Progress
    from raymeta.surface import learning_curves, loss_surface

    frame, display = analysis.read(path), Progress(True)
    chosen = [tasks.get(name) for name in ([task] if task else _ran(frame))]
    chosen = [t for t in chosen if task or set(names) <= set(t.space.flat_domains())]
    if not chosen:
        raise ValueError(
            f"--surface needs a task with both {' and '.join(names)}, but {path} has "
            "none that is known by name: name two hyperparameters of one, or --task"
        )
    surfaces, curves = [], []
    for one in chosen:
        seed = int(frame.loc[frame["task"] == one.name, "seed"].min())
        around = analysis.best_hparams(frame, one.name, seed)
        method, learnt = analysis.learnt_hparams(frame, one.name, seed)
        display.say([f"{one.name}: {points * points + len(learnt)} runs, not charged"])

        def show(done: int, total: int, name: str = one.name) -> None:
            display.update(lambda width: [f"{name}: {done} of {total} runs"[:width]])

        curves.append(learning_curves(one, learnt, seed=seed).assign(method=method))
        surfaces.append(
            loss_surface(one, names, at=around, seed=seed, points=points, progress=show)
        )
    folder = path if path.is_dir() else path.parent
    for file, tables in (("surface", surfaces), ("curves", curves)):
        target = folder / f"{file}.parquet"
        if target.is_file():  # of other tasks
            before = pd.read_parquet(target)
            known = {one.name for one in chosen}
            tables.insert(0, before[~before["task"].isin(known)])
        write_frame(pd.concat(tables), target)


def _ran(frame: Any) -> list[str]:
    """The tasks of a frame that are known by name."""
    from raymeta import tasks

    return [name for name in sorted(set(frame["task"])) if name in tasks.names()]


def summarize(path: Path) -> None:
    """Print the ranking or the evaluation; draw figures and page beside the frame."""
    from raymeta import analysis

    folder = path if path.is_dir() else path.parent
    if analysis.is_training(folder):
        frame = analysis.read_training(folder)
        published = analysis.read_published(folder)
        print("\n" + analysis.format_evaluation(frame, published) + "\n")
    else:
        frame = analysis.read(path)
        print("\n" + analysis.format_ranking(analysis.ranking(frame)) + "\n")
    for file in analysis.write_report(path):
        print(f"drawn: {address(file)}")
