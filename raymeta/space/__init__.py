"""The one search space: black-box search samples from it, hypergradients walk in it.

A hyperparameter has a *natural* value, which users and frames see, and an
*unconstrained* coordinate, in which gradient descent walks: log for `Positive`,
logit for `Unit`, the value itself for `Real`. λ has three shapes: `Hparams`, natural
values by name, which training takes; coordinates, in which descents walk; and `Point`,
plain scalars by flat name, which reports, journals, frames and searches carry.
"""

from raymeta.space.choice import Choice, label
from raymeta.space.continuous import Positive, Real, Unit
from raymeta.space.search_space import Domain, Point, Space

__all__ = ["Choice", "Domain", "Point", "Positive", "Real", "Space", "Unit", "label"]
