"""Hyperparameters that a problem's functions read, at the options of a λ."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from raymeta._tree import detach, is_differentiable
from raymeta.errors import unknown_name
from raymeta.problem import BilevelProblem, Known
from raymeta.types import Hparams


class Read(Known):
    """λ that remembers which of its names somebody has asked for.

    Who goes through all of it, or copies it, has asked for all.
    """

    def __init__(self, hparams: Hparams) -> None:
        super().__init__(hparams)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As of a dictionary."""
        self.names.add(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)

    def pop(self, name: str, *default: Any) -> Any:
        """As of a dictionary."""
        self.names.add(name)
        return super().pop(name, *default)

    def __iter__(self) -> Iterator[str]:
        self.names |= super().keys()
        return super().__iter__()

    def keys(self) -> Any:
        """As of a dictionary."""
        self.names |= super().keys()
        return super().keys()

    def values(self) -> Any:
        """As of a dictionary."""
        self.names |= super().keys()
        return super().values()

    def items(self) -> Any:
        """As of a dictionary."""
        self.names |= super().keys()
        return super().items()

    def copy(self) -> dict[str, Any]:
        """As of a dictionary."""
        return dict(self.items())

    def __or__(self, other: Any) -> Any:
        return dict(self.items()) | other

    def __ror__(self, other: Any) -> Any:
        return other | dict(self.items())


def read(problem: BilevelProblem, hparams: Hparams, steps: int = 1) -> set[str]:
    """The names of λ that init, the first and last step and the outer loss ask for.

    All of them where one of these raises: whoever trains will say why.

    Args:
        problem: whose functions are called.
        hparams: λ.
        steps: T, of a run: what begins late in it is used at its end.
    """
    seen = Read(detach(hparams))
    try:
        _once(problem, seen, steps)
    except Exception:
        return set(hparams)
    return seen.names & set(hparams)


def lacking(problem: BilevelProblem, hparams: Hparams) -> str | None:
    """The name for whose absence from λ a problem raises."""
    seen = Read(detach(hparams))
    try:
        _once(problem, seen)
    except Exception as error:  # for others, whoever trains will say why
        return named_in(error, seen.names - set(hparams))
    return None


def require_names(problem: BilevelProblem, hparams: Hparams) -> None:
    """Raise ValueError where a problem asks for a name that λ lacks."""
    if name := lacking(problem, hparams):
        raise unknown_name("hyperparameter", name, hparams)


def named_in(error: Exception, names: set[str]) -> str | None:
    """The one of these names of λ for whose absence a function raised."""
    if not isinstance(error, KeyError | ValueError):
        return None
    return next((name for name in names if repr(name) in str(error)), None)


def _once(problem: BilevelProblem, hparams: Hparams, steps: int = 1) -> None:
    with torch.no_grad(), torch.random.fork_rng([]):
        state = problem.init(hparams)
        for t in sorted({0, steps - 1}):
            state = problem.step(state, hparams, problem.batch(t))
        problem.outer_loss(state, hparams)


def unread(problem: BilevelProblem, hparams: Hparams, steps: int) -> set[str]:
    """The differentiable hyperparameters that are not read at the options of λ.

    Their derivative is exactly 0. None where λ has no options, and where all of them
    would be: then something is wrong. Plain numbers are constants, not options: what is
    not read beside them is more likely a slip, which is told.
    """
    if all(isinstance(value, Tensor | float | int) for value in hparams.values()):
        return set()
    learnt = {name for name, value in hparams.items() if is_differentiable(value)}
    left = learnt & read(problem, hparams, steps)
    return learnt - left if left else set()
