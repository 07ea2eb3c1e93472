"""Comparisons of black-box and hypergradient methods on Ray Tune."""

from raymeta import session
from raymeta.folder import new_name

with session.prepared():  # Tune, Optuna and scikit-learn are imported
    from raymeta.search.compare import compare
    from raymeta.search.domains import to_tune

__all__ = ["compare", "new_name", "session", "to_tune"]
