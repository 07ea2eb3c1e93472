"""Diagnosis of a problem's hypergradient, and the rule of its verdict."""

import html
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from raymeta import display
from raymeta.modules.non_smooth import NonSmooth, put_instead
from raymeta.results.overfitting import EXAMPLES
from raymeta.space import Point

if TYPE_CHECKING:
    from pandas import DataFrame

Verdict = Literal["trust", "trust with care", "use search"]

# Chosen on 26 small tasks (13, each with a usual and a bad start; seeds 0 and 1,
# those that are rough 0 to 4), by whether a plain descent by `Reverse` ended below
# TPE after 30 runs. Rough there are three. A ReLU network with batch norm at its
# usual start: it lost in 5 of 5 (agreement .23 to .57, metasmoothness .02 to .38). A
# ReLU graph network, once in 5: it won (.65, -.05). Penalties too strong for their
# learning rate on a linear model: it won in 4 of 5 (.55 to .87, .05 to .99). Kinks
# stay wherever a descent goes, the edge of stability is left. All else had .90 and
# .70 or more; whether it won there (33 of 48) is decided by what slopes at the start
# do not tell.

#: Of `Diagnosis.agreement`: from it on, slopes are those of the values; below 0 one
#: points elsewhere.
AGREES = 0.7
#: Of `Diagnosis.smoothness`: below it, what is trained jumps from λ to λ.
SMOOTH = 0.5
#: Of the lower of both, where there are kinks: below it, search.
ROUGH = 0.4
#: Of `Diagnosis.growth`: from it on, slopes are of one run's accidents. At most 3e2 on
#: those tasks, 1e9 and more along a chaotic map of 60 steps.
STEEP = 1e4
#: Weights from which on metasmoothness counts: signs of a few are chance, or a turning
#: point (.09 on an oscillator of three numbers, whose slopes are right).
SEVERAL = 30
#: How far E may differ between precisions, of itself.
ROUNDED = 1e-2
#: What is not measured, but follows.
JUDGED = ("agreement", "exponent", "growth", "score", "verdict", "reasons", "line")
#: How many roundings of E its differences may be off by.
ROUNDINGS = 8


class Slope(NamedTuple):
    """The slope of E along a line of λ, in the descents' coordinates (log λ …).

    Attributes:
        along: "gradient", or the flat names of hyperparameters.
        exact: that of the hypergradient.
        difference: (E(x + δv) - E(x - δv)) / 2δ, of two plain runs.
        below: E(x - δv); E(x) where the difference is that to E(x + δv).
        above: E(x + δv).
        rounding: how far rounding of E, and its curvature along the gradient where the
            difference is one-sided, may move the difference.
    """

    along: str
    exact: float
    difference: float
    below: float
    above: float
    rounding: float

    @property
    def off(self) -> float:
        """How far the two are apart, but for rounding."""
        return max(0.0, abs(self.exact - self.difference) - self.rounding)

    @property
    def agreement(self) -> float:
        """1 where the two are the same, below 0 where their signs differ."""
        return 1.0 - self.off / max(abs(self.exact), abs(self.difference), 1e-300)


class Precision(NamedTuple):
    """Training in another precision.

    Attributes:
        dtype: its name, such as "float64".
        outer_loss: E; NaN where it was not looked at.
        slope: along the gradient, exact; NaN where it was not looked at.
        why: why it was not looked at; "" where it was.
    """

    dtype: str
    outer_loss: float
    slope: float
    why: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Diagnosis:
    r"""Whether a problem's hypergradient can be trusted, and what speaks for it.

    Attributes:
        task: name of the task.
        seed: the one of the task's sample.
        horizon: T.
        point: λ, where it was looked at: the start.
        outer_loss: E there.
        step: δ, in the descents' coordinates.
        slopes: along the gradient first, then along hyperparameters.
        smoothness: see `raymeta.outer.sensitivity.metasmoothness`, along the gradient.
        weights: how many numbers that is a mean over.
        times: t of `adjoint` and `tangent`, from 0 to T.
        adjoint: |dE/ds_t|.
        tangent: |s_t(x + δv) - s_t(x - δv)| / 2δ.
        precision: the precisions that were looked at, or were not.
        non_smooth: layers and functions whose derivative jumps.
        hyperparameters: how many coordinates λ has.
        validation_size: examples of the outer loss; None where it is not of examples.
        fault: what ended the diagnosis early; "" without.
        gradient_evals: what it cost.
        effective: hyperparameters that E depends on, $\|g\|_1^2 / \|g\|_2^2$ of
            g = dE/dx: from 1, where one matters, to n, where all matter alike.
        steepness: $\|g\|_1 / |E|$, by how much of itself E would fall by a step of
            length 1 in every coordinate.
    """

    task: str
    seed: int
    horizon: int
    point: Point
    outer_loss: float
    step: float
    slopes: tuple[Slope, ...] = ()
    smoothness: float = math.nan
    weights: int = 0
    times: tuple[int, ...] = ()
    adjoint: tuple[float, ...] = ()
    tangent: tuple[float, ...] = ()
    precision: tuple[Precision, ...] = ()
    non_smooth: tuple[NonSmooth, ...] = ()
    hyperparameters: int
    validation_size: int | None
    fault: str = ""
    gradient_evals: float
    effective: float = math.nan
    steepness: float = math.nan

    def __repr__(self) -> str:
        return f"Diagnosis({self.task!r}: {self.line})"

    def _repr_html_(self) -> str:
        checks = self.frame.to_html(
            index=False, na_rep="", float_format="{:.4g}".format
        )
        return f"<b>{html.escape(f'{self.task}: {self.line}')}</b>{checks}"

    def plot(self) -> Any:
        """A figure of E along the gradient, and of sensitivities over the run."""
        return display.figures().draw_diagnosis(self.record)

    @property
    def agreement(self) -> float:
        r"""$1 - \max_i |s_i - d_i| / \max_j \max(|s_j|, |d_j|)$ of all slopes.

        1 where the exact slopes s are the differences d, 0 or less where one points
        elsewhere. What rounding may be is no disagreement.
        """
        if not self.slopes:
            return math.nan
        sizes = [max(abs(s.exact), abs(s.difference)) for s in self.slopes]
        off = [s.off for s in self.slopes]
        if not all(map(math.isfinite, sizes)):
            return -math.inf
        return 1.0 - max(off) / max(sizes) if max(off) else 1.0

    @property
    def exponent(self) -> float:
        """By how much ln |dE/ds_t| grows per step, backwards through the run.

        Along a chaotic run, its largest Lyapunov exponent.
        """
        if not self.adjoint or not (self.adjoint[0] > 0 and self.adjoint[-1] > 0):
            return math.nan
        return math.log(self.adjoint[0] / self.adjoint[-1]) / self.horizon

    @property
    def growth(self) -> float:
        """The largest |dE/ds_t| over the last; NaN where E does not see s_T."""
        if not self.adjoint or not self.adjoint[-1] > 0:
            return math.nan
        return max(self.adjoint) / self.adjoint[-1]

    @property
    def jumps(self) -> float:
        """Metasmoothness; 1 where it is a mean over too few weights to tell."""
        return self.smoothness if self.weights >= SEVERAL else 1.0

    @property
    def score(self) -> float:
        r"""How much a descent is expected to be ahead of a search, from 0 on.

        $$ \max(0, \min(a, \hat S)) + \ln \frac{\|g\|_1^2}{\|g\|_2^2}
           + \ln\Big(1 + \frac{\|g\|_1}{|E|}\Big) $$

        with the agreement a and the metasmoothness $\hat S$ (`jumps`): how far slopes
        can be trusted, how many numbers a gradient tells at once, and how far it leads.
        It orders tasks; nothing is decided by it. It takes E for a loss whose least
        value is near 0.
        """
        if self.fault or not self.effective > 0:
            return 0.0
        trusted = max(0.0, min(self.agreement, self.jumps))
        return trusted + math.log(self.effective) + math.log1p(self.steepness)

    @property
    def verdict(self) -> Verdict:
        """Whether descents, or searches, are for this problem."""
        return judged(self)[0]

    @property
    def reasons(self) -> tuple[str, ...]:
        """What speaks against trust, the gravest first, each with its remedy."""
        return judged(self)[1]

    @property
    def line(self) -> str:
        """The verdict and the gravest reason, on one line."""
        return ": ".join([self.verdict, *self.reasons[:1]])

    @property
    def record(self) -> dict[str, Any]:
        """All of it as JSON values; what is not finite is None."""
        names = [*(field.name for field in fields(self)), *JUDGED]
        return {name: _json(getattr(self, name)) for name in names}

    @property
    def frame(self) -> "DataFrame":
        """A row per check: of what, by the hypergradient, by plain runs, a score."""
        import pandas as pd

        columns = ["check", "of", "exact", "measured", "score", "note"]
        return pd.DataFrame(list(self._rows()), columns=columns)

    def _rows(self) -> Iterator[tuple[str, str, float, float, float, str]]:
        nan = math.nan
        yield "outer loss", "start", nan, self.outer_loss, nan, self.fault
        for s in self.slopes:
            yield "slope", s.along, s.exact, s.difference, s.agreement, ""
        if self.adjoint:
            count = f"{self.weights:,} weights"
            yield "metasmoothness", "gradient", nan, nan, self.smoothness, count
            steps = f"{self.horizon} steps"
            note = "largest over last; score: exponent per step"
            yield "adjoint", steps, nan, self.growth, self.exponent, note
            tangent = self.tangent[-1]
            yield "tangent", steps, nan, tangent, nan, "of the weights, at the end"
        for p in self.precision:
            yield "precision", p.dtype, p.slope, p.outer_loss, nan, p.why
        for n in self.non_smooth:
            yield (
                "non-smooth",
                n.path or "a step",
                nan,
                nan,
                nan,
                f"{n.kind}: {n.instead}",
            )
        if self.validation_size is not None:
            share = self.validation_size / self.hyperparameters
            size = f"{self.validation_size} examples"
            yield "validation", size, nan, nan, share, "per hyperparameter"
        if self.slopes:
            note = f"score of the task: {self.score:.3g}"
            yield "gradient", "start", nan, self.steepness, self.effective, note


def judged(d: Diagnosis) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict, and what speaks against trust: the one rule that decides.

    The thresholds are at the head of this file.
    """
    beside = tuple(_beside(d))
    if d.fault:
        return "use search", (d.fault, *beside)
    smoothness = d.jumps
    steep = d.growth > STEEP
    if d.agreement < AGREES:
        text = _worst(d)
    elif smoothness < SMOOTH:
        text = f"weights jump from λ to λ (metasmoothness {smoothness:.2f})"
    elif steep:
        text = f"|dE/ds_t| grows by a factor of {d.growth:.0e} through the run"
        return "trust with care", (f"{text}: {_remedy(d)}", *beside)
    else:
        return "trust", beside
    kinks = d.non_smooth and min(d.agreement, smoothness) < ROUGH
    verdict: Verdict = "trust with care"
    if d.agreement < 0 or steep or kinks:
        verdict = "use search"
    return verdict, (f"{text}: {_remedy(d)}", *beside)


def _worst(d: Diagnosis) -> str:
    """The slope that is off most, in words."""
    worst = max(d.slopes, key=lambda s: s.off)
    return (
        f"the exact slope along {_of(worst.along)} is {worst.exact:.3g}, but that of "
        f"runs at ±{d.step:g} is {worst.difference:.3g}"
    )


def _of(along: str) -> str:
    return "the gradient" if along == "gradient" else along


def _remedy(d: Diagnosis) -> str:
    """What to change."""
    if d.growth > STEEP:
        return "a shorter horizon, smaller bounds, or raymeta.optim.clip_by_norm"
    if d.non_smooth:
        return put_instead(d.non_smooth)
    return "smaller bounds around a calmer start, or a shorter horizon"


def _beside(d: Diagnosis) -> Iterator[str]:
    """What is to be known beside the slopes."""
    for p in d.precision:
        if not p.why and abs(p.outer_loss - d.outer_loss) > ROUNDED * abs(d.outer_loss):
            yield (
                f"E is {p.outer_loss:.4g} in {p.dtype}, but {d.outer_loss:.4g} in the "
                "problem's own precision: E says less than its digits"
            )
    n, size = d.hyperparameters, d.validation_size
    if size is not None and size < EXAMPLES * n:
        yield (
            f"{n} hyperparameters on {size} validation examples may overfit: hold "
            "some back, as holdout=0.3"
        )


def _json(value: Any) -> Any:
    """JSON values; tuples with names become objects."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _json(each) for key, each in value.items()}
    if isinstance(value, Slope | Precision | NonSmooth):
        return _json(value._asdict())
    return [_json(each) for each in value] if isinstance(value, tuple) else value
