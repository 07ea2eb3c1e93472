"""What a command says: progress, what was found, as text or as JSON."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

#: While it is set, Ray says what it says by itself; see `raymeta.runtime.ray_session`.
VERBOSE = "RAYMETA_VERBOSE"


def add_flags(
    parser: argparse.ArgumentParser, *, runs: bool = True, json: bool = True
) -> None:
    """Flags of what is said.

    Args:
        parser: of one command.
        runs: whether the command computes something: it has progress, and can be dry.
        json: whether `--json` is to be added.
    """
    group = parser.add_argument_group("output")
    parser.set_defaults(quiet=False, verbose=False, dry_run=False)
    if json:
        group.add_argument(
            "--json",
            action="store_true",
            help="print what was found as JSON and nothing else; progress goes to "
            "standard error",
        )
    if not runs:
        return
    group.add_argument(
        "--quiet", "-q", action="store_true", help="no progress, only what was found"
    )
    group.add_argument(
        "--verbose", "-v", action="store_true", help="Ray's own messages as well"
    )


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """The flag of a command whose costs can be told before."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the settings, what would run, for which budget and about how "
        "long; run a few steps to time them, write nothing",
    )


@contextmanager
def progress(arguments: argparse.Namespace, *, as_json: bool) -> Iterator[None]:
    """Where lines of progress go: nowhere with --quiet, with --json not to the JSON."""
    with ExitStack() as stack:
        if arguments.quiet:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(nowhere))
        elif as_json:
            stack.enter_context(redirect_stdout(sys.stderr))
        if arguments.verbose:
            before = os.environ.get(VERBOSE)
            os.environ[VERBOSE] = "1"
            stack.callback(_restore, before)
        yield


def _restore(before: str | None) -> None:
    if before is None:
        os.environ.pop(VERBOSE, None)
    else:
        os.environ[VERBOSE] = before


def print_summary(said: Mapping[str, Any], as_json: bool) -> None:
    """The `text` of what was found for people, all else of it as JSON."""
    if as_json:
        print_json({name: value for name, value in said.items() if name != "text"})
    else:
        print(said["text"])


def print_json(value: Any) -> None:
    """A value on standard output, as JSON that any parser takes: no NaN, no ∞."""
    print(json.dumps(_plain(value), indent=2))


def records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """The rows of a table, as JSON has them."""
    return json.loads(frame.to_json(orient="records", double_precision=15))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)
