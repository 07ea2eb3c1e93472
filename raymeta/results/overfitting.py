"""Overfitting of the validation set, as data that nothing was chosen by tell of it."""

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

#: Falls of the outer loss by less than this share of it are none.
SHARE = 0.01
#: Standard errors of a difference of two such means that chance may put between the
#: outer loss and the test loss.
ERRORS = 3.0

#: Validation examples for each hyperparameter, below which they may be overfitted.
EXAMPLES = 20
#: An outer loss that fell to less than this share of that at the start is suspicious
#: where they are few.
FELL_TO = 1 / 3

REMEDY = (
    "more validation data, fewer or tied hyperparameters, or narrower bounds may help"
)


class Overfitting(UserWarning):
    """The validation set was overfitted: the outer loss says less than it seems to."""


class Losses(NamedTuple):
    """Losses before and after hyperparameters were learnt; NaN where one is not known.

    Attributes:
        start: E at the start.
        result: E at the result.
        standard_error: E's at the result, over validation examples.
        start_holdout: the loss on validation data held back, at the start.
        holdout: the same at the result.
        test: the test loss at the result.
        examples: validation examples for each hyperparameter.
    """

    start: float
    result: float
    standard_error: float = math.nan
    start_holdout: float = math.nan
    holdout: float = math.nan
    test: float = math.nan
    examples: float = math.nan


def overfitting(losses: Losses) -> str:
    """Why the outer loss is not to be believed, with the remedy; "" without a reason.

    It fell, and the loss on data held back did not. Where none were held back: the test
    loss is above the outer loss of the start, and farther above that of the result than
    sampling explains. With neither: it fell far, on few examples.
    """
    start, result, error, before, after, test, examples = map(float, losses)
    if not start - result > SHARE * abs(start):
        return ""
    fell = f"E fell from {start:.4g} to {result:.4g}, but"
    if math.isfinite(before) and not math.isnan(after):
        if after < before:
            return ""
        return (
            f"{fell} from {before:.4g} to {after:.4g} on validation data held back: "
            f"the validation set is overfitted: {REMEDY}"
        )
    if test > start and test > result + ERRORS * math.sqrt(2) * error:
        return (
            f"{fell} the test loss is {test:.4g}: the validation set is overfitted: "
            f"{REMEDY}; module_problem(…, holdout=0.3) looks at this without a test set"
        )
    if math.isnan(test) and examples < EXAMPLES and result < FELL_TO * start:
        return (
            f"E fell from {start:.4g} to {result:.4g} on {examples:.3g} validation "
            "examples for each hyperparameter, and none held back: it may be "
            f"overfitted, see it with module_problem(…, holdout=0.3); {REMEDY}"
        )
    return ""


def overfitted(frame: "pd.DataFrame") -> list[str]:
    """A line for each task whose validation set was overfitted: where, and the first.

    Args:
        frame: one row per report; columns that older frames lack tell nothing.
    """
    found: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    studies = frame.groupby(["task", "method", "seed"], sort=False)
    for (task, method, seed), rows in studies:
        if text := overfitting(_losses(rows)):
            found.setdefault(task, []).append(f"{method} (seed {seed})")
            first.setdefault(task, text)
    return [f"{task}, {', '.join(who)}: {first[task]}" for task, who in found.items()]


def _losses(rows: "pd.DataFrame") -> Losses:
    """Of one study: its first full run is that at the start."""
    finite = rows["outer_loss"].notna()
    full = rows[(rows["status"] == "complete") & finite]
    final = rows[rows["status"] == "final"]
    if not len(full) or not len(final):
        return Losses(math.nan, math.nan)
    end = final.iloc[-1]
    return Losses(
        start=full["outer_loss"].iloc[0],
        result=end["outer_loss"],
        standard_error=end.get("standard_error", math.nan),
        start_holdout=rows.iloc[0].get("holdout_loss", math.nan),
        holdout=end.get("holdout_loss", math.nan),
        test=end.get("test_loss", math.nan),
        examples=end.get("examples", math.nan),
    )
