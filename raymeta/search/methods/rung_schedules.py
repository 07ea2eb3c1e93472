"""Training steps at which trials are compared, for the methods that compare them."""

from raymeta.tasks.base import Task


def geometric(task: Task, factor: int, most: int) -> dict[int, int]:
    """Units of training by the steps that they take: 1, η, η², … of η^k = T.

    Successive halving multiplies by η from a whole number; in units it ends at the
    horizon whatever that is.

    Args:
        task: gives the horizon T.
        factor: η.
        most: the largest k; it is smaller where T has fewer steps than η^k.

    Returns:
        {training steps: units}, increasing; the last one is the horizon.
    """
    power = max(k for k in range(most + 1) if factor**k <= task.horizon)
    units = [factor**k for k in range(power + 1)]
    return {-(-task.horizon * unit // units[-1]): unit for unit in units}


def even(task: Task, count: int) -> tuple[int, ...]:
    """Steps at `count` equal parts of the horizon, or at every step of a short one."""
    parts = min(count, task.horizon)
    return tuple(-(-task.horizon * part // parts) for part in range(1, parts + 1))
