"""The one search space: black-box search samples from it, hypergradients walk in it.

A hyperparameter has a *natural* value, which users and frames see, and an
*unconstrained* coordinate, in which gradient descent walks: log for `Positive`,
logit for `Unit`, the value itself for `Real`.
"""

from raymeta.space.choice import Choice, label, plain
from raymeta.space.continuous import Positive, Real, Unit
from raymeta.space.search_space import Domain, Space

__all__ = ["Choice", "Domain", "Positive", "Real", "Space", "Unit", "label", "plain"]
