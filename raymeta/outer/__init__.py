"""Walking in a search space: coordinates, the hyper-optimizers, and the descents."""

from raymeta.outer.coordinates import Coordinates
from raymeta.outer.steps.adam import ClippedAdam
from raymeta.outer.steps.curvature import Curvature
from raymeta.outer.steps.line_search import LineSearch
from raymeta.outer.steps.rprop import Rprop

__all__ = ["ClippedAdam", "Coordinates", "Curvature", "LineSearch", "Rprop"]
