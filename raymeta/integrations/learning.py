"""What integrations share: optimizers that others made begin to learn, and are seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch

from raymeta.errors import unknown_name
from raymeta.online import from_torch
from raymeta.online.base import Learning, Per
from raymeta.online.checks import PER
from raymeta.space import Space

#: Before the names of what is logged.
PREFIX = "learned/"


class Options(TypedDict, total=False):
    """What every integration takes beside names; see `raymeta.online.base.Learning`.

    Attributes:
        hyper_lr: η.
        per: what has a value of its own.
        trace: γ.
        space: bounds and coordinates.
    """

    hyper_lr: float | None
    per: Per
    trace: float
    space: Space | None


@dataclass(frozen=True)
class Learner:
    """What an optimizer is to learn, and how.

    Attributes:
        learn: names; a weight decay of 0 stays 0. None: lr, and weight decay where
            there is any.
        options: see `Options`.
    """

    learn: Any
    options: Options

    def __post_init__(self) -> None:
        """Refuse what can be refused before there is an optimizer."""
        known = Options.__annotations__
        for name in self.options:
            if name not in known:
                raise unknown_name("argument", name, ["learn", *known])
        per = self.options.get("per", "group")
        if per not in PER:
            raise unknown_name("per", str(per), PER)

    def begin(self, optimizer: torch.optim.Optimizer) -> Learning:
        """The optimizer, which learns from now on; one that does already as it is.

        Raises:
            ValueError: see `raymeta.online.from_torch`.
        """
        if isinstance(optimizer, Learning):
            return optimizer
        learn = self.learn
        if learn is None:
            decays = any(group.get("weight_decay") for group in optimizer.param_groups)
            learn = ("lr", "weight_decay") if decays else ("lr",)
        return from_torch(optimizer, learn, **self.options)


def logged(optimizers: Sequence[Learning]) -> Mapping[str, float]:
    """What each has learnt so far, by the names under which it is logged."""
    found = {}
    for i, optimizer in enumerate(optimizers):
        place = f"{i}/" if len(optimizers) > 1 else ""
        for name, value in optimizer.point.items():
            found[f"{PREFIX}{place}{name}"] = value
    return found


def missing(library: str, extra: str) -> ImportError:
    """The error where a library is not installed."""
    return ImportError(
        f"raymeta.integrations.{extra} needs {library}: pip install 'raymeta[{extra}]'"
    )
