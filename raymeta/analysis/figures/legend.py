"""Which methods a figure names where there are too many to tell their lines apart."""

import pandas as pd

from raymeta.analysis.tables.frames import seed_median
from raymeta.results.schema import BLACK_BOX, HYBRID, HYPERGRADIENT, TUNING_FREE

MOST = 10  # methods that a panel names
OF_EACH = {
    HYPERGRADIENT: 4,
    HYBRID: 2,
    BLACK_BOX: 3,
    TUNING_FREE: 1,
}  # where there are more


def methods_to_label(studies: pd.DataFrame) -> list[str]:
    """Return the methods to name, the lowest median final loss first.

    Args:
        studies: one task's, as `frames.studies` returns them.

    Returns:
        All methods, or ten of more: the best of each family first (`OF_EACH`), so that
        none is missing, then the best of the others. One without a value in half of its
        seeds is last.
    """
    losses = studies.groupby(["family", "method"])["best_outer_loss"]
    medians = losses.agg(seed_median)
    order = medians.sort_values(kind="stable")  # NaN last
    ranked = [(str(family), str(method)) for family, method in order.index]
    if len(ranked) <= MOST:
        return [method for _, method in ranked]
    named: list[str] = []
    for family, count in OF_EACH.items():
        named += [method for of, method in ranked if of == family][:count]
    others = [method for _, method in ranked if method not in named]
    named += others[: MOST - len(named)]
    return [method for _, method in ranked if method in named]
