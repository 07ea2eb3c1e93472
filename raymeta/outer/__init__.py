"""Descents in a search space: coordinates, hyper-optimizers, and outer loops."""

from raymeta.outer.coordinates import Coordinates
from raymeta.outer.steps.adam import ClippedAdam
from raymeta.outer.steps.lbfgs import LBFGS
from raymeta.outer.steps.line_search import LineSearch
from raymeta.outer.steps.rprop import Rprop

__all__ = ["LBFGS", "ClippedAdam", "Coordinates", "LineSearch", "Rprop"]
