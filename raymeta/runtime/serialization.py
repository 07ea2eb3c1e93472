"""Serialization of what is sent to Ray's workers, so that it can be opened there.

Ray's workers look for modules where the driver was started, and where `PYTHONPATH`
points. A driver may import from elsewhere: it has changed `sys.path`, or loaded a file.
So the driver's path travels along, and modules that have no name on it travel whole.
"""

import importlib.machinery
import pickle
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from raymeta.runtime.source_code import modules_of

REMEDY = (
    "make their modules importable on every node, by pip install -e . there, by "
    "PYTHONPATH, or by ray.init(runtime_env={'working_dir': '.'})"
)


class Payload(NamedTuple):
    """Something on its way to workers.

    Attributes:
        path: the driver's `sys.path`.
        content: pickled.
    """

    path: tuple[str, ...]
    content: bytes

    def open(self) -> Any:
        """What was sent.

        Raises:
            ImportError: it needs a module that this node does not have.
        """
        known = set(sys.path)
        sys.path += [p for p in self.path if p not in known and Path(p).exists()]
        return pickle.loads(self.content)  # noqa: S301  # from the driver


def pack(thing: Any, what: str, files: Iterable[ModuleType] = ()) -> Payload:
    """Send something.

    Args:
        thing: anything.
        what: it is, for a message.
        files: modules that were loaded from files.

    Raises:
        ValueError: it cannot be pickled.
    """
    from ray import cloudpickle

    whole = [*files, *(m for m in modules_of(thing) if not _is_found(m))]
    try:
        with _by_value(whole):
            content = cloudpickle.dumps(thing)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        names = ", ".join(sorted({module.__name__ for module in whole}))
        hint = f", which is what {names} may hold: {REMEDY}" if names else ""
        raise ValueError(
            f"{what} are sent to workers, hence must be picklable, but {reason}: keep "
            f"open files, locks and the like out of them{hint}"
        ) from error
    return Payload(tuple(str(Path(p).resolve()) for p in sys.path), content)


def _is_found(module: ModuleType) -> bool:
    """Whether who looks for a module by its name finds this one."""
    if module.__name__ == "__main__":
        return True  # which always travels whole
    top = module.__name__.partition(".")[0]
    try:
        # Not `find_spec(top)`, which answers from what is imported already.
        spec = importlib.machinery.PathFinder.find_spec(top)
    except (ImportError, ValueError):
        return False
    here = getattr(sys.modules.get(top), "__file__", None)
    return spec is not None and spec.origin == here


@contextmanager
def _by_value(modules: Iterable[ModuleType]) -> Iterator[None]:
    """Modules whose functions and classes are pickled whole, for now."""
    from ray import cloudpickle

    registered: set[str] = cloudpickle.list_registry_pickle_by_value()
    mine = {m.__name__: m for m in modules if m.__name__ not in registered}
    for module in mine.values():
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in mine.values():
            cloudpickle.unregister_pickle_by_value(module)
