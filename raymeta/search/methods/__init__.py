"""The methods of a comparison, one a file and one line each here."""

from raymeta.search.methods.asha import Asha
from raymeta.search.methods.base import (
    BLACK_BOX,
    HYPERGRADIENT,
    BlackBoxMethod,
    HypergradientMethod,
    Method,
)
from raymeta.search.methods.descent import Descent
from raymeta.search.methods.random import Random
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
    "short_term": Descent("short_term", "short_term"),
    "long_term": Descent("long_term", "reverse"),
    "forward": Descent("forward", "forward_online"),
}


def get(name: str) -> Method:
    """The registered method of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]
