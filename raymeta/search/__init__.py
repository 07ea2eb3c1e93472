"""Comparisons of black-box and hypergradient methods on Ray Tune."""

from raymeta import session  # first: it prepares the import of Ray
from raymeta.folder import new_name
from raymeta.search.compare import compare
from raymeta.search.domains import to_tune

__all__ = ["compare", "new_name", "session", "to_tune"]
