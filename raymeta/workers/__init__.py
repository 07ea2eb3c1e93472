"""One optimization on workers of Ray Train: what each runs, and the launcher."""

from raymeta.workers.optimization import Run

__all__ = ["Run"]
