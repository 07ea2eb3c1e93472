"""Published results of the runs that recipes repeat."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Published(NamedTuple):
    """A paper's figure for a run.

    Attributes:
        value: the mean outer loss on test tasks.
        ci95: half the width of its 95 % interval.
        inner_steps: after so many.
        outer_steps: number of them in the paper's meta-training.
        source: the paper and its table.
    """

    value: float
    ci95: float
    inner_steps: int
    outer_steps: int
    source: str


_CAVIA = "Zintgraf et al. 2019, table 1"

#: (algorithm, family, what else must be so) -> the figure. The intervals are over test
#: tasks, of one meta-training.
_TABLE: list[tuple[str, str, Mapping[str, Any], Published]] = [
    *(
        (
            "cavia",
            "sinusoid",
            {"context": context, "inner_lr": 1.0, "inner_steps": 1, "shots": 10},
            Published(value, ci95, 1, 50_000, _CAVIA),
        )
        for context, value, ci95 in (
            (1, 0.84, 0.06),
            (2, 0.21, 0.02),
            (3, 0.20, 0.02),
            (4, 0.19, 0.02),
            (5, 0.19, 0.02),
            (50, 0.19, 0.02),
        )
    ),
    (
        "maml",
        "sinusoid",
        {"inner_steps": 1, "shots": 10},
        Published(0.33, 0.02, 1, 50_000, _CAVIA),
    ),
]


def published(
    algorithm: str, family: str, settings: Mapping[str, Any]
) -> tuple[Published, ...]:
    """The figures for a run.

    Args:
        algorithm: its name.
        family: the family's own name.
        settings: what the run has beside, by name: those of its inner loop and the
            sizes of its tasks.
    """
    return tuple(
        figure
        for its, tasks, conditions, figure in _TABLE
        if (its, tasks) == (algorithm, family)
        and all(settings.get(name) == value for name, value in conditions.items())
    )
