"""Error messages of one line: of names that do not exist, of values, of errors."""

import types
from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

#: Characters of a value that an error message shows.
MOST = 120


def unknown_name(
    kind: str, name: object, known: Iterable[str], meant: str | None = None
) -> ValueError:
    """The error for an unknown name: says what was given, meant, and available.

    Args:
        kind: what it ought to name.
        name: what was given.
        known: every name there is.
        meant: the one that was meant; by default the closest one.
    """
    shown = said(name)
    known, name = sorted(known), name if isinstance(name, str) else shown
    # Too short to be close to what contains it: "lr" in "inner_lr".
    inside = [k for k in known if k in name.split("_")]
    close = get_close_matches(name, known, n=1) or inside
    meant = meant or (close[0] if close else None)
    hint = f"did you mean {meant!r}? " if meant else ""
    if "," in name:
        hint = "several are separated by spaces, not by commas; "
    return ValueError(
        f"unknown {kind} {shown}: {hint}available: {', '.join(known) or 'none'}"
    )


def said(value: object) -> str:
    """A value as an error message shows it: on one line, cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of a class of the user's
        text = f"an object of {type(value).__qualname__}"
    return text if len(text) <= MOST else f"{text[:MOST]} …"


def require_types(instance: Any) -> None:
    """Raise ValueError unless the fields of a dataclass have the types they declare.

    Whole numbers of numpy count as int, all real ones as float; of a type that
    cannot be asked for (a protocol, a variable) any value passes.
    """
    kind = type(instance)
    names = [field.name for field in fields(kind)]
    _require_hints(kind, {name: getattr(instance, name) for name in names})


def require_arguments(function: Any, **values: object) -> None:
    """Raise ValueError unless arguments have the types that a function declares."""
    _require_hints(function, values)


def require_flags(owner: str, **flags: object) -> None:
    """Raise ValueError unless each is True or False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(
                f"{owner} needs {name}=True or {name}=False, but got {name}="
                f"{said(value)}"
            )


def _require_hints(owner: Any, values: Mapping[str, object]) -> None:
    hints = _hints(owner)
    called = owner.__qualname__.removesuffix(".__init__").rpartition(".")[2]
    for name, value in values.items():
        if not _is_of(value, hints[name]):
            raise ValueError(
                f"{called} needs {name} to be {_words(hints[name])}, but got "
                f"{name}={said(value)}"
            )


_hints = lru_cache(get_type_hints)


def _is_of(value: object, hint: Any) -> bool:
    origin = get_origin(hint) or hint
    if origin in (Union, types.UnionType):
        return any(_is_of(value, each) for each in get_args(hint))
    if origin is Literal:  # which of them, its owner says
        return any(type(value) is type(each) for each in get_args(hint))
    if hint is None or hint is type(None):
        return value is None
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, Real) and not isinstance(value, bool)
    if origin is Mapping:
        key, item = get_args(hint) or (Any, Any)
        return isinstance(value, Mapping) and all(
            _is_of(k, key) and _is_of(v, item) for k, v in value.items()
        )
    try:
        return isinstance(value, origin)
    except TypeError:  # of a protocol, a variable, anything
        return True


def _words(hint: Any) -> str:
    """A type as people say it."""
    origin = get_origin(hint) or hint
    if origin in (Union, types.UnionType):
        return " or ".join(_words(each) for each in get_args(hint))
    if origin is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if origin is Mapping:
        key, item = (_words(each) for each in get_args(hint) or (Any, Any))
        return f"a mapping from {key} to {item}"
    known = {int: "a whole number", float: "a number", bool: "True or False"}
    if hint in known:
        return known[hint]
    if hint is None or hint is type(None):
        return "None"
    return "text" if hint is str else str(getattr(hint, "__name__", hint))


def one_line(error: BaseException) -> str:
    """Class and message of an exception, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
