"""Walking in a search space: coordinates, the hyper-optimizers, and the descents."""

from raymeta.outer.adam import ClippedAdam
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.curvature import Curvature
from raymeta.outer.line_search import LineSearch
from raymeta.outer.rprop import Rprop

__all__ = ["ClippedAdam", "Coordinates", "Curvature", "LineSearch", "Rprop"]
