"""Things of users, tasks among them: in a Python file, or in an installed package."""

import sys
import traceback
from collections.abc import Callable, Iterable
from importlib import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from raymeta.data import check_family
from raymeta.errors import one_line, unknown_name
from raymeta.modules.user_functions import require_function
from raymeta.tasks.base import check_task, offered


class Kind(NamedTuple):
    """A kind of thing that users name.

    Attributes:
        noun: what it is.
        group: where packages name theirs, in `[project.entry-points."<group>"]`.
        check: raises ValueError unless a thing is one.
        offers: what an object of it has besides a name; "" where it is a function.
    """

    noun: str
    group: str
    check: Callable[[Any], None]
    offers: str


def _check_learner(learner: Any) -> None:
    require_function("learner", learner, ("seed",))


def _check_estimator(estimator: Any) -> None:
    if isinstance(estimator, type) or not callable(estimator):
        return  # what it is depends on the horizon: its user asks for more
    require_function("estimator", estimator, ("horizon",))


TASK = Kind("task", "raymeta.tasks", check_task, "sample")
FAMILY = Kind("family", "raymeta.families", check_family, "episodes")
#: seed -> `raymeta.meta.Learner`.
LEARNER = Kind("learner", "raymeta.learners", _check_learner, "")
ESTIMATOR = Kind("estimator", "raymeta.estimators", _check_estimator, "")
KINDS = (TASK, FAMILY, LEARNER, ESTIMATOR)

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
    """Whether this names a thing in a file: `path.py:Name`."""
    return ".py:" in name or name.endswith(".py")


def from_file(name: str, kind: Kind = TASK) -> Any:
    """The thing at `path.py:Name`: an object, a class, or a function that makes one.

    The file is run once in a process, with its folder on the path, as a script is.

    Raises:
        ValueError: the file is missing or raises, or has nothing of that name, or that
            is not of this kind.
    """
    file, _, attribute = name.partition(".py:")
    path = Path(file if not attribute else f"{file}.py")
    module = _load(path, kind)
    found = vars(module)
    if attribute not in found:
        known = [k for k, value in found.items() if _may_be_one(value, module, kind)]
        raise unknown_name(f"{kind.noun} in {path}:", attribute, known)
    thing = _made(found[attribute], name, kind)
    if kind is TASK:
        _sources[thing.name] = f"{path.resolve()}:{attribute}"
    return thing


def entry_points(kind: Kind = TASK) -> dict[str, metadata.EntryPoint]:
    """The things of installed packages by name."""
    return {point.name: point for point in metadata.entry_points(group=kind.group)}


def from_package(point: metadata.EntryPoint, kind: Kind = TASK) -> Any:
    """The thing that an installed package names.

    Raises:
        ValueError: it cannot be imported, or is not of this kind.
    """
    try:
        thing = point.load()
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{kind.noun} {point.name!r} must be importable, but {point.value} raises "
            f"{one_line(error)}: repair or remove its package"
        ) from error
    return _made(thing, point.value, kind)


def own(name: str, kind: Kind) -> Any | None:
    """The thing of this name that is a user's; None where none is.

    Raises:
        ValueError: see `from_file`, `from_package`.
    """
    if is_file(name):
        return from_file(name, kind)
    point = entry_points(kind).get(name)
    return None if point is None else from_package(point, kind)


def _load(path: Path, kind: Kind) -> ModuleType:
    place = path.resolve()
    if place in _files:
        return _files[place]
    if not place.is_file():
        raise ValueError(
            f"a {kind.noun} in a file is given as path.py:Name, but there is no file "
            f"{path}"
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
    except (Exception, SystemExit) as error:
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


def _may_be_one(value: Any, module: ModuleType, kind: Kind) -> bool:
    """A class or function of the module, or an object that offers what is asked."""
    if isinstance(value, type | FunctionType):
        return value.__module__ == module.__name__
    return bool(kind.offers) and offered(value, kind.offers) is not None


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = vars(module).get("__file__")
    return file is not None and Path(file).resolve().parent == folder


def _made(thing: Any, name: str, kind: Kind) -> Any:
    """What is given, or what it makes."""
    makes = isinstance(thing, type) or (
        callable(thing) and offered(thing, "name") is None
    )
    try:
        made = thing() if makes and kind.offers else thing
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{name} must make a {kind.noun} without arguments, but it raises "
            f"{one_line(error)}"
        ) from error
    try:
        kind.check(made)
    except ValueError as error:
        raise ValueError(f"{name} is no {kind.noun}: {error}") from None
    return made


def _line(error: BaseException, path: Path) -> int:
    """The last line of the file that led there."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 0
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno or 0 for f in reversed(frames) if f.filename == str(path)), 0)
