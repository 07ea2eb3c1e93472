"""Walking in a search space: coordinates, and the hyper-optimizers."""

from raymeta.outer.adam import ClippedAdam
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.rprop import Rprop

__all__ = ["ClippedAdam", "Coordinates", "Rprop"]
