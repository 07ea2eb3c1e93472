"""raymeta: hypergradients, meta-learning, and their comparison, on Ray."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from raymeta import hypergrad, optim, tasks
from raymeta.hypergrad import hypergradient
from raymeta.loop import Report, Result, optimize
from raymeta.modules import module_problem
from raymeta.problem import BilevelProblem, TrainState, descent
from raymeta.space import Choice, Positive, Real, Space, Unit
from raymeta.types import Batch, Tensors

if TYPE_CHECKING:
    from raymeta.search import compare

try:
    __version__ = version("raymeta")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

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
    "compare",
    "descent",
    "hypergrad",
    "hypergradient",
    "module_problem",
    "optim",
    "optimize",
    "tasks",
]


def __getattr__(name: str) -> Any:
    # Ray is imported with the first use of `compare`: notebooks that only want
    # hypergradients pay nothing for it.
    if name == "compare":
        from raymeta.search import compare

        return compare
    raise AttributeError(f"module 'raymeta' has no attribute {name!r}")
