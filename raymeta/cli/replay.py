"""`raymeta replay`."""

import argparse

from raymeta.cli import output


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Which trials, and what the folder does not say."""
    parser.add_argument(
        "folder", help="the folder of a comparison or an optimization, results/NAME"
    )
    parser.add_argument(
        "--trial",
        nargs="+",
        metavar="ID",
        help="trials of a comparison, task/method/seed/number, or task/method/seed for "
        "all of a study (default: all)",
    )
    parser.add_argument(
        "--task",
        nargs="+",
        default=[],
        metavar="STR",
        help="tasks in files, as path.py:Name",
    )
    parser.add_argument(
        "--estimator",
        metavar="STR",
        help="estimator of an optimization, where it is in a file, as path.py:Name",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run the task files that the folder names: only for a folder of your own",
    )


def run(arguments: argparse.Namespace) -> None:
    """Train again, and say which trials differ.

    Raises:
        ValueError: some do; or see `raymeta.replay`.
    """
    from raymeta.search.replay import replay

    with output.progress(arguments, as_json=arguments.json):
        found = replay(
            arguments.folder,
            arguments.trial,
            tasks=arguments.task,
            estimator=arguments.estimator,
            trust=arguments.trust,
        )
    differ = found[~found["identical"]]
    if arguments.json:
        output.print_json({"folder": arguments.folder, "trials": output.records(found)})
    else:
        for row in differ.itertuples():
            print(f"{row.task}/{row.method}/{row.seed}/{row.trial}, {row.differs}")
    count = f"{len(found) - len(differ)} of {len(found)} trials"
    if len(differ):
        raise ValueError(
            f"{count} of {arguments.folder} give the numbers that were recorded, and "
            f"{len(differ)} do not: restore the data, packages and machine that it "
            "ran with, or compare anew under another name"
        )
    if not arguments.json:
        print(f"{count} give the numbers that were recorded, to the bit")
