"""Settings of a command: defaults in a dataclass, a TOML file, then flags."""

import argparse
import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import UnionType
from typing import (
    Any,
    ClassVar,
    Protocol,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import shtab

from raymeta.errors import unknown_name


class Settings(Protocol):
    """A frozen dataclass whose fields carry `metadata["help"]`."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


S = TypeVar("S", bound=Settings)


def add_flags(parser: argparse.ArgumentParser, settings: type[Settings]) -> None:
    """A flag for each field, and `--config` for a TOML file with the same names.

    Fields may be str, int, float, bool, any of these or None, or a tuple of one of
    them.
    """
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file with these settings; flags win"
    ).complete = shtab.FILE  # type: ignore[attr-defined]
    hints = get_type_hints(settings)
    for field in fields(settings):
        kind, many = _kind(hints[field.name])
        shown = _shown(field.default)
        help_ = f"{field.metadata['help']} (default: {shown})"
        flag = f"--{field.name.replace('_', '-')}"
        if kind is bool:
            parser.add_argument(
                flag,
                action=argparse.BooleanOptionalAction,
                default=argparse.SUPPRESS,
                help=help_,
            )
        else:
            parser.add_argument(
                flag,
                type=kind,
                nargs="+" if many else None,
                metavar=kind.__name__.upper(),
                default=argparse.SUPPRESS,
                help=help_,
            )


def read(arguments: argparse.Namespace, settings: type[S]) -> S:
    """The settings: defaults, overridden by the file, overridden by flags.

    Raises:
        ValueError: the file cannot be read, or names or types in it are wrong.
    """
    values = {} if arguments.config is None else _read_file(arguments.config, settings)
    names = {field.name for field in fields(settings)}
    flags = {k: v for k, v in vars(arguments).items() if k in names}
    values |= flags
    return settings(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    )


def _read_file(path: str, settings: type[Settings]) -> dict[str, Any]:
    try:
        table = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(
            f"--config {path} cannot be read: {error.strerror}; give an existing file"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path} is not valid TOML: {error}") from None
    hints = get_type_hints(settings)
    for name, value in table.items():
        if name not in hints:
            raise unknown_name(f"setting in {path}:", name, hints)
        kind, many = _kind(hints[name])
        _check(path, name, value, kind, many)
        if many and not isinstance(value, list):
            table[name] = [value]
    return table


def _check(path: str, name: str, value: Any, kind: type, many: bool) -> None:
    items: Sequence[Any] = value if isinstance(value, list) else [value]
    allowed = (int, float) if kind is float else (kind,)
    fits = all(
        isinstance(item, allowed) and (kind is bool or not isinstance(item, bool))
        for item in items
    )
    if not fits or (isinstance(value, list) and not many):
        wanted = f"a list of {kind.__name__}" if many else kind.__name__
        raise ValueError(f"{path}: setting {name!r} needs {wanted}, but got {value!r}")


def _kind(hint: Any) -> tuple[type, bool]:
    """(type of one value, whether there may be several)."""
    if isinstance(hint, UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    return hint, False


def _shown(default: Any) -> str:
    if default is None or default is MISSING:
        return "automatic"
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return str(default)
