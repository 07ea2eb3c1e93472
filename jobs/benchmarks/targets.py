"""The figures to reach, and whether they are."""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from jobs.benchmarks.methods import HIGHER, PLAIN, TORCHOPT

CASE = ["model", "steps"]


class Measured(NamedTuple):
    """All that was measured.

    Attributes:
        times: model, method, steps, round, seconds.
        memory: model, method, steps, peak_bytes.
        growth: the same of runs of different lengths of the small problem.
        compiling: model, method, steps, cold, warm, again.
    """

    times: pd.DataFrame
    memory: pd.DataFrame
    growth: pd.DataFrame
    compiling: pd.DataFrame


class Target(NamedTuple):
    """A figure to reach.

    Attributes:
        name: the figure's name.
        of: all that was measured -> the figure, by model and steps.
        most: what it may be at most.
    """

    name: str
    of: Callable[[Measured], pd.Series]
    most: float


def time_over(method: str, *others: str) -> Callable[[Measured], pd.Series]:
    """Time over that of the fastest of others, the median of the rounds' ratios."""

    def of(measured: Measured) -> pd.Series:
        index = [*CASE, "round"]
        seconds = measured.times.pivot(index=index, columns="method", values="seconds")
        fastest = seconds[[other for other in others if other in seconds]].min(axis=1)
        return (seconds[method] / fastest).groupby(CASE, sort=False).median()

    return of


def memory_over(method: str, other: str) -> Callable[[Measured], pd.Series]:
    """Peak memory over that of another."""

    def of(measured: Measured) -> pd.Series:
        peaks = measured.memory.pivot(index=CASE, columns="method", values="peak_bytes")
        return peaks[method] / peaks[other]

    return of


def memory_growth(method: str) -> Callable[[Measured], pd.Series]:
    """Peak memory of the longest run over that of the shortest."""

    def of(measured: Measured) -> pd.Series:
        rows = measured.growth[measured.growth["method"] == method]
        peaks = rows.set_index(CASE)["peak_bytes"].sort_index()
        return peaks.iloc[[-1]] / peaks.iloc[0]

    return of


def compiling(column: str, method: str) -> Callable[[Measured], pd.Series]:
    """What compiling takes."""

    def of(measured: Measured) -> pd.Series:
        rows = measured.compiling[measured.compiling["method"] == method]
        return rows.set_index(CASE)[column]

    return of


FEW, MANY = "Forward, 2 values", "Forward, 32 values"
CHECKPOINTED = "Checkpointed, compiled"
#: Methods whose time to compile is limited.
COMPILED = [CHECKPOINTED, f"{FEW}, compiled", f"{MANY}, compiled"]
TARGETS = [
    Target("Reverse / fastest peer", time_over("Reverse", HIGHER, TORCHOPT), 1),
    Target("Reverse, compiled / higher", time_over("Reverse, compiled", HIGHER), 0.4),
    Target(f"{CHECKPOINTED} / plain", time_over(CHECKPOINTED, PLAIN), 1.3),
    Target(
        f"{CHECKPOINTED} / Reverse, bytes", memory_over(CHECKPOINTED, "Reverse"), 0.1
    ),
    *(
        Target(f"{name}: s to compile", compiling("cold", name), 10)
        for name in COMPILED
    ),
    *(Target(f"{name}: again", compiling("again", name), 0) for name in COMPILED),
    Target(f"{FEW}, compiled / plain", time_over(f"{FEW}, compiled", PLAIN), 1.5),
    Target(f"{MANY}, compiled / plain", time_over(f"{MANY}, compiled", PLAIN), 10),
    Target(f"{FEW} / plain", time_over(FEW, PLAIN), 6),
    Target(f"{MANY} / plain", time_over(MANY, PLAIN), 30),
    Target("Forward: bytes / those at the shortest T", memory_growth("Forward"), 1.05),
    Target("Reversible / Reverse", time_over("Reversible", "Reverse"), 8),
    Target("Reversible / Reverse, bytes", memory_over("Reversible", "Reverse"), 0.05),
    Target("ShortTerm, lr / plain", time_over("ShortTerm, lr", PLAIN), 1.3),
]


def target_table(measured: Measured) -> pd.DataFrame:
    """One row per figure, model and length of the run."""
    rows = [
        (target.name, *case, figure, target.most, figure <= target.most)
        for target in TARGETS
        for case, figure in target.of(measured).items()
    ]
    return pd.DataFrame(rows, columns=["figure", *CASE, "is", "at most", "reached"])
