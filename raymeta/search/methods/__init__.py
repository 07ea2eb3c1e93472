"""The methods of a comparison, one a file and one line each here."""

from raymeta.search.methods.asha import Asha
from raymeta.search.methods.base import (
    BLACK_BOX,
    HYPERGRADIENT,
    BlackBoxMethod,
    HypergradientMethod,
    Method,
)
from raymeta.search.methods.forward import ForwardDescent
from raymeta.search.methods.long_term import LongTermDescent
from raymeta.search.methods.random import Random
from raymeta.search.methods.short_term import ShortTermDescent
from raymeta.search.methods.tpe import Tpe
from raymeta.suggest import unknown

__all__ = [
    "BLACK_BOX",
    "HYPERGRADIENT",
    "METHODS",
    "BlackBoxMethod",
    "HypergradientMethod",
    "Method",
    "get",
]

METHODS: dict[str, Method] = {
    "random": Random(),
    "asha": Asha(),
    "tpe": Tpe(),
    "short_term": ShortTermDescent(),
    "long_term": LongTermDescent(),
    "forward": ForwardDescent(),
}


def get(name: str) -> Method:
    """The registered method of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]
