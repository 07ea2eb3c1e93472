"""raymeta: hypergradients, meta-learning, and their comparison, on Ray."""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from raymeta.process import preserved

if TYPE_CHECKING:
    from raymeta import (
        analysis,
        data,
        distributed,
        hypergrad,
        integrations,
        meta,
        modules,
        online,
        optim,
        search,
        tasks,
        train,
        tune,
    )
    from raymeta.compile.twice import compile_twice
    from raymeta.hypergrad import hypergradient
    from raymeta.hypergrad.tower import tower
    from raymeta.modules import module_problem
    from raymeta.outer.diagnose import diagnose
    from raymeta.outer.optimize import optimize
    from raymeta.outer.report import Report
    from raymeta.outer.result import Result
    from raymeta.problem import BilevelProblem, TrainState, descent
    from raymeta.results.best import best
    from raymeta.search.compare import compare
    from raymeta.search.replay import replay
    from raymeta.space import Choice, Positive, Real, Space, Unit
    from raymeta.types import Batch, Tensors

__all__ = [
    "Batch",
    "BilevelProblem",
    "Choice",
    "Positive",
    "Real",
    "Report",
    "Result",
    "Space",
    "Tensors",
    "TrainState",
    "Unit",
    "analysis",
    "best",
    "compare",
    "compile_twice",
    "data",
    "descent",
    "diagnose",
    "distributed",
    "hypergrad",
    "hypergradient",
    "integrations",
    "meta",
    "module_problem",
    "modules",
    "online",
    "optim",
    "optimize",
    "replay",
    "search",
    "tasks",
    "tower",
    "train",
    "tune",
]

try:
    __version__ = version("raymeta")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

_HOME = {
    "compile.twice": ["compile_twice"],
    "hypergrad": ["hypergradient", "tower"],
    "modules": ["module_problem"],
    "outer.diagnose": ["diagnose"],
    "outer.optimize": ["optimize"],
    "outer.report": ["Report"],
    "outer.result": ["Result"],
    "results.best": ["best"],
    "problem": ["BilevelProblem", "TrainState", "descent"],
    "search": ["compare"],
    "search.replay": ["replay"],
    "space": ["Choice", "Positive", "Real", "Space", "Unit"],
    "types": ["Batch", "Tensors"],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used.

    Who reads a frame does not load torch, and who computes a hypergradient not Ray.
    """
    if name in _MODULE_OF:
        return getattr(_imported(f"raymeta.{_MODULE_OF[name]}"), name)
    if name in __all__:
        return _imported(f"raymeta.{name}")
    raise AttributeError(f"module 'raymeta' has no attribute {name!r}")


def _imported(name: str) -> ModuleType:
    """A module; what it imports changes nothing else in this process."""
    if name in sys.modules:
        return sys.modules[name]
    with preserved():
        return import_module(name)


def __dir__() -> list[str]:
    special = [name for name in globals() if name.startswith("__")]
    return sorted([*special, *__all__])
