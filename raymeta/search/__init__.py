"""Comparisons of black-box and hypergradient methods on Ray Tune."""

from raymeta.runtime import ray_session

with ray_session.prepared():  # Tune, Optuna and scikit-learn are imported
    from raymeta.search.compare import compare
    from raymeta.search.tune.space import to_tune

__all__ = ["compare", "ray_session", "to_tune"]
