"""Tasks of users: in a Python file, or in an installed package."""

import sys
import traceback
from collections.abc import Iterable
from importlib import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from raymeta.errors import one_line, unknown_name
from raymeta.tasks.base import Task, check_task, offered

#: Under which packages name their tasks, in `[project.entry-points."raymeta.tasks"]`.
GROUP = "raymeta.tasks"

_files: dict[Path, ModuleType] = {}
_beside: list[ModuleType] = []
_sources: dict[str, str] = {}


def modules() -> list[ModuleType]:
    """What was loaded from files, which workers cannot import by name."""
    return [*_files.values(), *_beside]


def sources(names: Iterable[str]) -> dict[str, str]:
    """Where tasks of these names are from: `path.py:Name`, of those from files."""
    return {name: _sources[name] for name in names if name in _sources}


def is_file(name: str) -> bool:
    """Whether this names a task in a file: `path.py:Name`."""
    return ".py:" in name or name.endswith(".py")


def from_file(name: str) -> Task:
    """The task at `path.py:Name`: an object, a class, or a function that makes one.

    The file is run once in a process, with its folder on the path, as a script is.

    Raises:
        ValueError: the file is missing or raises, or has nothing of that name, or that
            is not a task.
    """
    file, _, attribute = name.partition(".py:")
    path = Path(file if not attribute else f"{file}.py")
    module = _load(path)
    found = vars(module)
    if attribute not in found:
        known = [key for key, value in found.items() if _may_be_task(value, module)]
        raise unknown_name(f"task in {path}:", attribute, known)
    task = _made(found[attribute], name)
    _sources[task.name] = f"{path.resolve()}:{attribute}"
    return task


def entry_points() -> dict[str, metadata.EntryPoint]:
    """The tasks of installed packages by name."""
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def from_package(point: metadata.EntryPoint) -> Task:
    """The task that an installed package names.

    Raises:
        ValueError: it cannot be imported, or is not a task.
    """
    try:
        thing = point.load()
    except Exception as error:
        raise ValueError(
            f"task {point.name!r} must be importable, but {point.value} raises "
            f"{one_line(error)}: repair or remove its package"
        ) from error
    return _made(thing, point.value)


def _load(path: Path) -> ModuleType:
    place = path.resolve()
    if place in _files:
        return _files[place]
    if not place.is_file():
        raise ValueError(
            f"a task in a file is given as path.py:Name, but there is no file {path}"
        )
    names = {module.__name__ for module in _files.values()}
    name = f"task_file_{place.stem}"
    while name in names:
        name += "_"
    spec = spec_from_file_location(name, place)
    assert spec is not None
    assert spec.loader is not None
    module, before = module_from_spec(spec), set(sys.modules)
    sys.modules[name] = module  # dataclasses look themselves up there
    sys.path.insert(0, str(place.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(
            f"{path}, line {_line(error, place)} raises {one_line(error)}: repair it"
        ) from error
    finally:
        sys.path.remove(str(place.parent))
    _files[place] = module
    _beside.extend(
        sys.modules[other]
        for other in set(sys.modules) - before - {name}
        if _lies_in(sys.modules[other], place.parent)
    )
    return module


def _may_be_task(value: Any, module: ModuleType) -> bool:
    """A class or function of the module, or an object of any that samples."""
    if isinstance(value, type | FunctionType):
        return value.__module__ == module.__name__
    return offered(value, "sample") is not None


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = vars(module).get("__file__")
    return file is not None and Path(file).resolve().parent == folder


def _made(thing: Any, name: str) -> Task:
    """The task: what is given, or what it makes."""
    makes = isinstance(thing, type) or (
        callable(thing) and offered(thing, "name") is None
    )
    try:
        task = thing() if makes else thing
    except Exception as error:
        raise ValueError(
            f"{name} must make a task without arguments, but it raises "
            f"{one_line(error)}"
        ) from error
    try:
        check_task(task)
    except ValueError as error:
        raise ValueError(f"{name} is no task: {error}") from None
    return task


def _line(error: Exception, path: Path) -> int:
    """The last line of the file that led there."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 0
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno or 0 for f in reversed(frames) if f.filename == str(path)), 0)
