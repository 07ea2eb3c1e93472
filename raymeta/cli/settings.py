"""Settings of commands: their fields, and the command that goes on."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import Any

from raymeta.runtime.interrupt import interrupted

#: Files in jobs/ that are a command themselves.
SCRIPTS = ("compare.py", "meta_train.py")


def setting(default: Any, help_: str) -> Any:
    """A field of a dataclass of settings, with the help of its flag."""
    return field(default=default, metadata={"help": help_})


@contextmanager
def resumable(command: str, settings: Any, name: str) -> Iterator[None]:
    """A run that Ctrl-C ends with the command that goes on from there."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        program = ["python"] * sys.argv[0].endswith(".py") + [sys.argv[0]]
        line = shlex.join([*program, *flags(command, settings, name=name)])
        told = ": ".join(map(str, interrupt.args))
        found = vars(interrupt).get("found", told)
        raise interrupted(found, f"go on with: {line}") from None


def flags(command: str, settings: Any, **changed: Any) -> list[str]:
    """The flags that give these settings."""
    values = {k: getattr(settings, k) for k in settings.__dataclass_fields__} | changed
    line = [] if Path(sys.argv[0]).name in SCRIPTS else [command]
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            line.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            listed = value if isinstance(value, tuple) else (value,)
            line += [f"--{flag}", *map(str, listed)]
    return line
