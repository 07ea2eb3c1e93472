"""Comparisons of black-box and hypergradient methods on Ray Tune."""

from raymeta.search import session  # first: it prepares the import of Ray
from raymeta.search.compare import compare
from raymeta.search.domains import to_tune
from raymeta.search.folder import new_name

__all__ = ["compare", "new_name", "session", "to_tune"]
