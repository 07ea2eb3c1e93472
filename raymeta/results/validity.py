"""Validity of a comparison, as its frame carries it.

Methods are compared where they trained on the same: the same data, batches and initial
weights in every (task, seed). Where they did not, the frame has a column `invalid` that
says why, in every row of the (task, seed); everything that is made from such a frame
says so too. A column, for it survives `pandas.concat`, filters and files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


COLUMN = "invalid"

INVALID = "INVALID, for methods did not train on the same"

REMEDY = (
    "seed the data: let sample(seed) draw all of it with torch.manual_seed(seed), or "
    "with a torch.Generator of that seed, and compare again under another name"
)

#: Reasons by (task, seed).
Reasons = Mapping[tuple[str, int], str]


class InvalidComparison(UserWarning):
    """Methods were compared that did not train on the same."""


def mark(frame: "pd.DataFrame", reasons: Reasons) -> "pd.DataFrame":
    """The frame with its column `invalid`; the frame itself where all is well."""
    if not reasons:
        return frame
    problems = zip(frame["task"], frame["seed"], strict=True)
    said = [reasons.get((task, int(seed)), "") for task, seed in problems]
    return frame.assign(**{COLUMN: said})


def reasons_of(frame: "pd.DataFrame") -> dict[str, list[str]]:
    """Task -> why its comparison is not valid, seed by seed; nothing where all is."""
    if COLUMN not in frame:
        return {}
    rows = frame[frame[COLUMN].fillna("") != ""].drop_duplicates(["task", "seed"])
    found: dict[str, list[str]] = {}
    for task, seed, reason in zip(
        rows["task"], rows["seed"], rows[COLUMN], strict=True
    ):
        found.setdefault(str(task), []).append(f"seed {seed}: {reason}")
    return found


def sentence(reasons: Mapping[str, list[str]]) -> str:
    """What is wrong and what to do, on one line; "" where nothing is.

    Args:
        reasons: what `reasons_of` found.
    """
    if not reasons:
        return ""
    where = "; ".join(f"{task}, {'; '.join(why)}" for task, why in reasons.items())
    return f"{INVALID}: {where}: {REMEDY}"


def marked(frame: "pd.DataFrame", folder: Path) -> "pd.DataFrame":
    """The frame with its column `invalid`, from spending.json where it has none yet."""
    return frame if COLUMN in frame else mark(frame, _recorded(folder))


def _recorded(folder: Path) -> dict[tuple[str, int], str]:
    """What the spending.json of a comparison says; nothing without one."""
    # It loads pyarrow, for which a command that ends at once should not wait.
    from raymeta.results.records import read_spending

    reasons: dict[tuple[str, int], list[str]] = {}
    for mismatch in read_spending(folder).get("mismatches", []):
        place, _, why = mismatch.rpartition(": ")
        task, _, seed = place.rpartition(", seed ")
        reasons.setdefault((task, int(seed)), []).append(why.removesuffix(" differ"))
    return {
        problem: f"{' and '.join(kinds)} differ" for problem, kinds in reasons.items()
    }
