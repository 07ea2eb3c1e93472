"""The methods of a comparison, one a file and one line each here."""

from importlib import metadata

from packaging.requirements import Requirement

from raymeta.errors import said, unknown_name
from raymeta.results.schema import RENAMED
from raymeta.search.methods.asha import Asha
from raymeta.search.methods.ax import Ax
from raymeta.search.methods.base import DescentMethod, Method, SearchMethod
from raymeta.search.methods.bayesopt import BayesOpt
from raymeta.search.methods.blendsearch import BlendSearch
from raymeta.search.methods.bohb import Bohb
from raymeta.search.methods.cmaes import CmaEs
from raymeta.search.methods.cqr import AshaCqr, Cqr
from raymeta.search.methods.evolution import Evolution
from raymeta.search.methods.gp import Gp
from raymeta.search.methods.gradient import HypergradientDescent
from raymeta.search.methods.grid import Grid
from raymeta.search.methods.hyperband import HyperBand
from raymeta.search.methods.hyperopt import HyperOpt
from raymeta.search.methods.median import Median
from raymeta.search.methods.nevergrad import Nevergrad
from raymeta.search.methods.pb2 import Pb2
from raymeta.search.methods.pbt import Pbt
from raymeta.search.methods.pbt_descent import PbtDescent
from raymeta.search.methods.random import Random
from raymeta.search.methods.restarts import Restarts
from raymeta.search.methods.smac import Smac
from raymeta.search.methods.sobol import Sobol
from raymeta.search.methods.tpe import Tpe
from raymeta.search.methods.tpe_descent import TpeDescent
from raymeta.search.methods.tuning_free import RULES

__all__ = [
    "ALIASES",
    "DEFAULT",
    "METHODS",
    "DescentMethod",
    "Method",
    "SearchMethod",
    "get",
    "missing",
    "resolve",
]

METHODS: dict[str, Method] = {
    "random": Random(),
    "grid": Grid(),
    "sobol": Sobol(),
    "asha": Asha(),
    "hyperband": HyperBand(),
    "median": Median(),
    "pbt": Pbt(),
    "pb2": Pb2(),
    "tpe": Tpe(),
    "tpe_multivariate": Tpe("tpe_multivariate", multivariate=True),
    "cmaes": CmaEs(),
    "gp": Gp(),
    "bohb": Bohb(),
    "hyperopt": HyperOpt(),
    "nevergrad": Nevergrad(),
    "bayesopt": BayesOpt(),
    "smac": Smac(),
    "ax": Ax(),
    "blendsearch": BlendSearch(),
    "cqr": Cqr(),
    "asha_cqr": AshaCqr(),
    "auto": HypergradientDescent("auto", "auto"),
    "short_term": HypergradientDescent("short_term", "short_term"),
    "short_term_adaptive": HypergradientDescent(
        "short_term_adaptive", "short_term_adaptive"
    ),
    "long_term": HypergradientDescent("long_term", "reverse"),
    "forward": HypergradientDescent("forward", "forward"),
    "forward_online": HypergradientDescent("forward_online", "forward_online"),
    "tpe_descent": TpeDescent(),
    "pbt_descent": PbtDescent(),
    "restarts": Restarts("restarts", hyper_steps=20),
    "random_batch": Restarts("random_batch", hyper_steps=0),
    "truncated": HypergradientDescent("truncated", "truncated"),
    "checkpointed": HypergradientDescent("checkpointed", "checkpointed"),
    "reversible": HypergradientDescent("reversible", "reversible"),
    "implicit": HypergradientDescent("implicit", "implicit"),
    "soba": HypergradientDescent("soba", "soba"),
    "smoothed": HypergradientDescent("smoothed", "smoothed"),
    "combined": HypergradientDescent("combined", "combined"),
    "es": Evolution("es", persistent=False),
    "pes": Evolution("pes", persistent=True),
    **RULES,
}

#: The full unroll under its estimator's name, too: it is `long_term`.
ALIASES: dict[str, Method] = {"reverse": HypergradientDescent("reverse", "reverse")}

#: What a comparison runs unless told otherwise.
DEFAULT = (
    *("random", "asha", "tpe", "auto"),
    *("short_term", "long_term", "forward_online", "forward"),
)


def get(name: str) -> Method:
    """The registered method of that name, or the descent by an estimator of that name.

    Raises:
        ValueError: there is none; says which one may be meant.
    """
    known = METHODS | ALIASES
    if name not in known:
        raise unknown_name("method", name, known, RENAMED.get(name))
    return known[name]


def resolve(method: str | Method) -> Method:
    """The method of that name, or the object.

    Raises:
        ValueError: there is none of that name, or it is neither.
    """
    if isinstance(method, str):
        return get(method)
    if not isinstance(method, SearchMethod | DescentMethod):
        raise ValueError(
            "methods must be names, or objects of classes that inherit from "
            f"SearchMethod or DescentMethod, but got {said(method)}"
        )
    return method


def missing(method: Method) -> tuple[str, ...]:
    """The packages that a method requires and that are not here, as pip takes them."""
    return tuple(line for line in method.requires if not _is_met(Requirement(line)))


def _is_met(requirement: Requirement) -> bool:
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(found, prereleases=True)
