"""Command line: parse, call one function, turn what went wrong into one line.

Nothing heavy is imported before a command asks for it: `raymeta --help`, and a finished
comparison, take no longer than Python itself.
"""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import shtab

import raymeta
from raymeta.cli import (
    compare,
    config,
    diagnose,
    listing,
    optimize,
    output,
    replay,
    report,
    train,
)

EXIT_CODES = """\
exit codes:
  0    done: results are printed and written, whatever the verdict of diagnose
  1    a mistake in raymeta or a library, with its traceback
  2    bad input, one line says which and what to do; or a comparison that is INVALID,
       for its methods did not train on the same: it is printed and drawn all the same;
       or trials that replay finds to differ
  130  Ctrl-C: one line says how to go on

Of the environment: RAY_ADDRESS, a cluster to use; RAYMETA_VERBOSE=1, as --verbose."""


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
        elif error.errno in (errno.EROFS, errno.EIO):
            said = (
                f"the disk of the results cannot be written any more ({error}); what "
                "was written before is whole: mend it or mount it anew, and the same "
                "--name goes on from it"
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


class Version(argparse.Action):
    """The versions of raymeta and of what decides results."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print them, and end."""
        known = [f"{name} {metadata.version(name)}" for name in ("torch", "ray")]
        python = ".".join(map(str, sys.version_info[:3]))
        print(f"raymeta {raymeta.__version__} ({', '.join(known)}, Python {python})")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    parser = argparse.ArgumentParser(
        prog="raymeta",
        description="Hypergradients against black-box search, on Ray.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action=Version, nargs=0, help="print versions and exit"
    )
    shtab.add_argument_to(
        parser, "--print-completion", help="print what completes commands in a shell"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[..., None], help_: str, settings: Any = None
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_, description=help_)
        sub.set_defaults(run=run)
        if settings is not None:
            config.add_flags(sub, settings)
            # Diagnose has it among its settings.
            output.add_flags(sub, json="json" not in settings.__dataclass_fields__)
        return sub

    for sub in (
        command(
            "compare",
            compare.run,
            "compare methods on tasks at equal budgets, on Ray Tune",
            compare.CompareSettings,
        ),
        command(
            "optimize",
            optimize.run,
            "learn a task's hyperparameters by hypergradient descent, here or on "
            "workers",
            optimize.OptimizeSettings,
        ),
        command(
            "train",
            train.run,
            "meta-learn on a family of tasks, data-parallel on Ray Train",
            train.TrainSettings,
        ),
    ):
        output.add_dry_run(sub)
    command(
        "diagnose",
        diagnose.run,
        "say whether a task's hypergradient can be trusted, before a budget is spent",
        diagnose.DiagnoseSettings,
    )
    sub = command(
        "report", report.run, "print and draw the results of a run, as one HTML page"
    )
    report.add_flags(sub)
    output.add_flags(sub)
    sub = command(
        "replay",
        replay.run,
        "train trials of a run again: do they give what was recorded, to the bit?",
    )
    replay.add_flags(sub)
    output.add_flags(sub)
    sub = command("list", listing.run, "tasks, methods and estimators by name")
    output.add_flags(sub, runs=False)
    return parser
