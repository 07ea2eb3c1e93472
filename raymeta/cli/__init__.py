"""Command line: parse, call one function, turn what went wrong into one line."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence

from raymeta.cli import compare, config, diagnose, listing, optimize, report, train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (2 for bad input, 130 for Ctrl-C)."""
    parsed = parser().parse_args(arguments)
    return exit_code(lambda: parsed.run(parsed))


def exit_code(program: Callable[[], None]) -> int:
    """Run a program; what went wrong is said in one line.

    Returns:
        2 for bad input, 130 for Ctrl-C, otherwise 0.
    """
    try:
        program()
        sys.stdout.flush()
    except ValueError as error:
        print(f"raymeta: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of `raymeta list | head` has seen enough; nothing is left to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            said = (
                f"the disk of the results is full ({error}); what was written before "
                "is whole: make room, and the same --name goes on from it"
            )
        elif error.filename is not None:
            said = (
                f"{error.filename2 or error.filename} cannot be used "
                f"({error.strerror}): delete it or make it accessible, or use another "
                "name"
            )
        else:
            raise
        print(f"raymeta: error: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        said = ": ".join(["interrupted", *map(str, interrupt.args)])
        print(f"\nraymeta: {said}", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    parser = argparse.ArgumentParser(
        prog="raymeta",
        description="Hypergradients against black-box search, on Ray.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[..., None], help_: str, **settings: type):
        sub = commands.add_parser(name, help=help_, description=help_)
        sub.set_defaults(run=run)
        if settings:
            config.add_flags(sub, settings["settings"])
        return sub

    command(
        "compare",
        compare.run,
        "compare methods on tasks at equal budgets, on Ray Tune",
        settings=compare.CompareSettings,
    )
    command(
        "optimize",
        optimize.run,
        "learn a task's hyperparameters by hypergradient descent, here or on workers",
        settings=optimize.OptimizeSettings,
    )
    command(
        "diagnose",
        diagnose.run,
        "say whether a task's hypergradient can be trusted, before a budget is spent",
        settings=diagnose.DiagnoseSettings,
    )
    command(
        "train",
        train.run,
        "meta-learn on a family of tasks, data-parallel on Ray Train",
        settings=train.TrainSettings,
    )
    report.add_flags(
        command(
            "report",
            report.run,
            "print and draw the results of a run, as one HTML page",
        )
    )
    command("list", listing.run, "tasks, methods and estimators by name")
    return parser
