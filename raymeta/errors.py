"""Error messages of one line: of names that do not exist, of values, of errors."""

from collections.abc import Iterable
from difflib import get_close_matches

#: Characters of a value that an error message shows.
MOST = 120


def unknown_name(
    kind: str, name: str, known: Iterable[str], meant: str | None = None
) -> ValueError:
    """The error for an unknown name: says what was given, meant, and available.

    Args:
        kind: what it ought to name.
        name: what was given.
        known: every name there is.
        meant: the one that was meant; by default the closest one.
    """
    known = sorted(known)
    # Too short to be close to what contains it: "lr" in "inner_lr".
    inside = [k for k in known if k in name.split("_")]
    close = get_close_matches(name, known, n=1) or inside
    meant = meant or (close[0] if close else None)
    hint = f"did you mean {meant!r}? " if meant else ""
    if "," in name:
        hint = "several are separated by spaces, not by commas; "
    return ValueError(
        f"unknown {kind} {name!r}: {hint}available: {', '.join(known) or 'none'}"
    )


def said(value: object) -> str:
    """A value as an error message shows it: on one line, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= MOST else f"{text[:MOST]} …"


def one_line(error: Exception) -> str:
    """Class and message of an exception, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
