"""Source code of people's own that a task, a method or a learner is made of.

A run that is continued must train what it began with. Functions and classes are
followed from an object through closures, attributes, globals and base classes, as far
as they are not of a library; what counts is what Python compiled: comments, docstrings,
line numbers and places on the disk do not.
"""

import dis
import functools
import hashlib
import math
import os
import platform
import re
import site
import sys
import sysconfig
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

#: Objects that are looked at: data sets may hold millions.
LIMIT = 100_000
PLAIN = (bool, int, float, complex, str, bytes, type(None))
#: Items of a list that count.
LONG = 1000
#: Methods that put something into a container.
FILLING = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "clear"}
#: A file of a task is a module of this name, see `tasks.own`.
FILE = "task_file_"

_LIBRARIES = tuple(
    f"{Path(path).resolve()}{os.sep}"
    for path in {
        *(sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib")),
        *(sysconfig.get_paths()[key] for key in ("purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
        str(Path(__file__).parents[1]),
    }
)


def code_of(*things: Any) -> dict[str, str]:
    """Digest of each function and class that is people's own, by dotted name.

    The same in every process, on every machine with the same minor version of Python.
    """
    walk = _Walk()
    walk.follow(things)
    return {
        label: _digest(sorted(digests)) for label, digests in sorted(walk.parts.items())
    }


def modules_of(*things: Any) -> list[ModuleType]:
    """Modules of people's own whose functions and classes things are made of."""
    walk = _Walk()
    walk.follow(things)
    return [sys.modules[name] for name in sorted(walk.modules) if name in sys.modules]


def recorded(code: Mapping[str, str]) -> dict[str, Any]:
    """What a folder keeps of `code_of`, for `changed`."""
    return {"python": _python(), "parts": dict(code)}


def joined(then: Mapping[str, Any], now: Mapping[str, str]) -> dict[str, Any]:
    """What `recorded` says, with more code; as it was where another Python compiled."""
    if then.get("python") != _python():
        return dict(then)
    return recorded({**then.get("parts", {}), **now})


def changed(
    then: Mapping[str, Any], now: Mapping[str, str], *, whole: bool = True
) -> list[str]:
    """Names of what is not as it was; nothing where another Python compiled it.

    Args:
        then: what `recorded` had returned.
        now: what `code_of` returns.
        whole: whether now is of all that then was of; else of some of it.
    """
    if then.get("python") != _python():
        return []
    parts = then.get("parts", {})
    # A file may be imported under another name: digests are compared, names are told.
    gone = [n for n, digest in parts.items() if whole and digest not in now.values()]
    come = [name for name, digest in now.items() if digest not in parts.values()]
    return sorted({*gone, *come})


def listed(names: list[str], most: int = 5) -> str:
    """Names for a sentence; of many the first."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def is_own(file: str | None) -> bool:
    """Whether a file is people's own: not of Python, raymeta or what pip installed."""
    if not file or file.startswith("<frozen"):
        return False
    if file.startswith("<"):
        return True
    path = str(Path(file).resolve())
    return not path.startswith(_LIBRARIES) and not re.search(
        r"[/\\](site|dist)-packages[/\\]", path
    )


def is_own_module(module: ModuleType | None) -> bool:
    """Whether a module is people's own; so is what is typed into a notebook."""
    if module is None or module.__name__ == "__main__":
        return True
    return is_own(getattr(module, "__file__", None))


class _Walk:
    """Follows objects.

    Attributes:
        parts: digests by name: several functions may have one.
        modules: names of modules.
    """

    def __init__(self) -> None:
        self.parts: dict[str, set[str]] = {}
        self.modules: set[str] = set()
        self._seen: dict[int, Any] = {}  # kept: another object might get its id
        self._queue: deque[Any] = deque()

    def follow(self, things: Iterable[Any]) -> None:
        self._queue.extend(things)
        while self._queue and len(self._seen) < LIMIT:
            thing = self._queue.popleft()
            if isinstance(thing, (*PLAIN, ModuleType)) or id(thing) in self._seen:
                continue
            self._seen[id(thing)] = thing
            self._queue.extend(self._parts(thing))

    def _parts(self, thing: Any) -> Iterable[Any]:
        if isinstance(thing, FunctionType):
            return self._of_function(thing)
        if isinstance(thing, type):
            return self._of_class(thing)
        if isinstance(thing, Mapping):
            return list(thing.values()) if isinstance(thing, dict) else ()
        if isinstance(thing, list | tuple | set | frozenset):
            return thing
        if isinstance(thing, functools.partial):
            return [thing.func, thing.args, thing.keywords]
        if isinstance(thing, MethodType):
            return [thing.__self__, thing.__func__]
        if isinstance(thing, property):
            return [thing.fget, thing.fset]
        inner = [getattr(thing, n, None) for n in ("__wrapped__", "__func__", "func")]
        attributes = list(vars(thing).values()) if _is_followed(thing) else []
        return [type(thing), *(i for i in inner if callable(i)), *attributes]

    def _of_function(self, function: FunctionType) -> list[Any]:
        code = function.__code__
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        closure = {name: _content(cell) for name, cell in cells.items()}
        around = [*closure.values(), *(function.__defaults__ or ())]
        around += (function.__kwdefaults__ or {}).values()
        around.append(getattr(function, "__wrapped__", None))
        space = function.__globals__
        if not is_own(code.co_filename) or not is_own_module(
            sys.modules.get(space.get("__name__", ""))
        ):
            return around
        module = function.__module__ or ""
        self.modules.add(module)
        stored, names = _stored(code), _names(code)
        known = {n: space[n] for n in names if n in space and n not in stored}
        said = [_text(code), repr(_plain(function.__defaults__))]
        said.append(repr(_plain(function.__kwdefaults__)))
        free = {n: v for n, v in closure.items() if n not in stored}
        filled = _fills(code)  # a cache, or a list of what was called
        said += _values(free, filled) + _values(known, filled)
        self._note(module, function.__qualname__, said)
        return [*around, *self._reached(known, names)]

    def _of_class(self, kind: type) -> list[Any]:
        if not is_own_module(sys.modules.get(kind.__module__)):
            return []
        self.modules.add(kind.__module__)
        members = {
            name: value
            for name, value in vars(kind).items()
            if not name.startswith("__") or isinstance(value, FunctionType)
        }
        self._note(kind.__module__, kind.__qualname__, _values(members))
        return [*kind.__bases__, *members.values()]

    def _reached(self, known: Mapping[str, Any], names: set[str]) -> Iterator[Any]:
        """What globals stand for; of modules what is named after the dot."""
        modules: list[ModuleType] = []
        for value in known.values():
            if isinstance(value, ModuleType):
                modules.append(value)
            else:
                yield value
        seen: set[str] = set()
        while modules:
            module = modules.pop()
            if module.__name__ in seen or not is_own_module(module):
                continue
            seen.add(module.__name__)
            self.modules.add(module.__name__)
            named = {n: vars(module)[n] for n in names if n in vars(module)}
            if said := _values(named, filled=True):
                self._note(module.__name__, "", said)
            inner = [v for v in named.values() if isinstance(v, ModuleType)]
            modules += inner
            yield from (v for v in named.values() if not isinstance(v, ModuleType))

    def _note(self, module: str, name: str, said: Iterable[str]) -> None:
        home = module.removeprefix(FILE)
        if module == "__main__":
            main = getattr(sys.modules["__main__"], "__file__", None)
            home = Path(main).stem if main else "__main__"
        label = f"{home}.{name}".rstrip(".")
        self.parts.setdefault(label, set()).add(_digest([name, *said]))


def _text(code: CodeType) -> str:
    """What a function does, as Python compiled it."""
    used = {i.arg for i in dis.get_instructions(code) if i.opcode in dis.hasconst}
    # A docstring is a constant that nobody loads.
    consts = [_constant(c) for i, c in enumerate(code.co_consts) if i in used]
    shape = code.co_argcount, code.co_kwonlyargcount, code.co_flags
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return repr((code.co_code, consts, shape, names))


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _text(value)
    if isinstance(value, frozenset):
        return sorted(map(repr, value))
    return tuple(map(_constant, value)) if isinstance(value, tuple) else repr(value)


def _names(code: CodeType) -> set[str]:
    """Names of globals and attributes, of inner functions too."""
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return {*code.co_names, *(name for c in inner for name in _names(c))}


def _stored(code: CodeType) -> set[str]:
    """Names that a function gives other values: they count something, or remember."""
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    mine = {
        str(i.argval)
        for i in dis.get_instructions(code)
        if i.opname in ("STORE_GLOBAL", "STORE_DEREF")
        and i.argval not in code.co_cellvars
    }
    return {*mine, *(name for c in inner for name in _stored(c))}


def _fills(code: CodeType) -> bool:
    """Whether a function puts something into containers."""
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    mine = any(
        i.opname.endswith("_SUBSCR") and i.opname[0] in "SD"
        for i in dis.get_instructions(code)
    )
    return mine or bool(FILLING & _names(code)) or any(map(_fills, inner))


def _values(named: Mapping[str, Any], filled: bool = False) -> list[str]:
    """Of globals and the like what is a plain value; containers unless they change."""
    plain = (
        (name, _plain(value))
        for name, value in sorted(named.items())
        if not (filled and isinstance(value, dict | list | set))
    )
    return [f"{name}={value!r}" for name, value in plain if value is not None]


def _is_place(text: str) -> bool:
    """Whether this is a path from a root, which another machine may have elsewhere."""
    kinds = (PurePosixPath, PureWindowsPath)
    return text.startswith("~") or any(kind(text).is_absolute() for kind in kinds)


def _plain(value: Any) -> Any:
    """A value that is the same everywhere; None for others, and for places on disks.

    Twelve digits of a number: another machine may round differently.
    """
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.12g}"
    if isinstance(value, str):
        return None if _is_place(value) else value
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value[:LONG]))
    if isinstance(value, set | frozenset):
        return sorted(repr(_plain(item)) for item in value)
    if isinstance(value, dict):
        return sorted((repr(_plain(k)), repr(_plain(v))) for k, v in value.items())
    return value if isinstance(value, PLAIN) else None


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty still
        return None


def _is_followed(thing: Any) -> bool:
    """Whether an object's attributes count: from a logger one gets everywhere."""
    home = type(thing).__module__.partition(".")[0]
    known = isinstance(getattr(thing, "__dict__", None), dict)
    return known and home not in sys.stdlib_module_names - {"__main__"}


def _digest(said: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])
