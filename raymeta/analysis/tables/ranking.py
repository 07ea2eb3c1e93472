"""The ranking of methods by validation loss, and its price in evaluations."""

import math
from textwrap import fill

import numpy as np
import pandas as pd

from raymeta.analysis.tables.frames import (
    seed_median,
    seed_quantile,
    studies,
    target_of,
)
from raymeta.analysis.tables.text import (
    MISSING,
    align,
    number,
    per_cent,
    ratio,
    shorten,
    span,
)
from raymeta.results.schema import BLACK_BOX, HYBRID, HYPERGRADIENT, TUNING_FREE
from raymeta.results.validity import COLUMN, reasons_of, sentence

WIDTH = 100  # columns of the terminal
# Before a method's name.
MARKS = {HYPERGRADIENT: "∂ ", HYBRID: "+ ", TUNING_FREE: "1 "}
COLUMNS = (
    *("task", "method", "family", "seeds", "valued", "finished"),
    *("best_outer_loss", "best_outer_loss_q25", "best_outer_loss_q75"),
    *("gradient_evals", "evals_to_target", "seconds_to_target"),
    *("reached", "targeted", "failed", "target_method", "target"),
)


def ranking(frame: pd.DataFrame) -> pd.DataFrame:
    """Rank the methods of each task by their best validation loss.

    A seed without a full-horizon value ranks behind every value (`seed_quantile`).

    Args:
        frame: one row per report.

    Returns:
        One row per (task, method), sorted by task, then `best_outer_loss`:
        `family`; `seeds`, `valued`, `finished` (how many seeds reported, have a
        full-horizon value, wrote their final row); `best_outer_loss` and its `_q25`,
        `_q75` over seeds (NaN: too few seeds have a value); `test_*` (medians over
        finished seeds); `gradient_evals` (median total spent); `evals_to_target`,
        `seconds_to_target` (medians over the seeds that have a target of the first
        `gradient_evals`, `wall_s` at it; inf when a seed never reaches it; NaN without
        a target); `reached`, `targeted` (seeds that reach their target, that have
        one); `failed` (trials); `target_method`, `target` (the black-box method
        that set the task's target, and its median; "" and NaN when there is none);
        and, where a comparison is not valid, `invalid`: why, "" for the other tasks.

    Raises:
        ValueError: A required column is missing.
    """
    table = _cells_with_reach(frame)
    tests = [name for name in frame.columns if name.startswith("test_")]
    finals = frame[frame["status"] == "final"]
    failed = frame[frame["status"] == "failed"]
    failed = failed.drop_duplicates(["task", "method", "seed", "trial"])
    rows = []
    for (task, method), group in table.groupby(["task", "method"]):
        ours = finals[(finals["task"] == task) & (finals["method"] == method)]
        per_seed = ours.groupby("seed")[tests].last()
        missed = (failed["task"] == task) & (failed["method"] == method)
        rows.append(
            {"task": task, "method": method, "family": group["family"].iloc[0]}
            | _over_seeds(group)
            | {name: per_seed[name].median() for name in tests}
            | {"failed": int(missed.sum())}
            | _task_target(table[table["task"] == task])
        )
    ranked = pd.DataFrame(rows, columns=[*COLUMNS[:9], *tests, *COLUMNS[9:]])
    ranked = ranked.sort_values(["task", "best_outer_loss", "method"])
    ranked = ranked.reset_index(drop=True)
    unfair = {task: "; ".join(why) for task, why in reasons_of(frame).items()}
    if unfair:
        ranked[COLUMN] = [unfair.get(task, "") for task in ranked["task"]]
    return ranked


def _cells_with_reach(frame: pd.DataFrame) -> pd.DataFrame:
    """Add to `studies` each seed's target and what reaching it took."""
    table = studies(frame)
    targets = target_of(table).rename(columns={"method": "target_method"})
    table["seconds"] = studies(frame, "wall_s")["staircase"]
    table = table.merge(targets, on=["task", "seed"], how="left")
    for name, steps in (("evals", "staircase"), ("seconds", "seconds")):
        pairs = zip(table[steps], table["target"], strict=True)
        table[f"{name}_to_target"] = [
            math.nan if math.isnan(target) else steps.reaches(target)
            for steps, target in pairs
        ]
    return table


def _over_seeds(group: pd.DataFrame) -> dict[str, float]:
    """Summarise the studies of one (task, method)."""
    losses = group["best_outer_loss"].to_numpy(float)
    return {
        "seeds": len(group),
        "valued": int((~np.isnan(losses)).sum()),
        "finished": sum(steps.finished for steps in group["staircase"]),
        "best_outer_loss": seed_median(losses),
        "best_outer_loss_q25": float(seed_quantile(losses, 0.25)),
        "best_outer_loss_q75": float(seed_quantile(losses, 0.75)),
        "gradient_evals": float(np.median([s.end for s in group["staircase"]])),
        "evals_to_target": group["evals_to_target"].median(),
        "seconds_to_target": group["seconds_to_target"].median(),
        "reached": int(np.isfinite(group["evals_to_target"]).sum()),
        "targeted": int(group["target"].notna().sum()),
    }


def _task_target(group: pd.DataFrame) -> dict[str, str | float]:
    """Name the method that set a task's target, and its median over seeds."""
    own = group[group["method"] == group["target_method"]]
    method = own["method"].iloc[0] if len(own) else ""
    losses = group.loc[group["method"] == method, "best_outer_loss"]
    return {
        "target_method": method,
        "target": seed_median(losses) if len(own) else math.nan,
    }


def format_ranking(table: pd.DataFrame) -> str:
    """Lay `ranking`'s table out for a terminal of 100 columns, one block a task."""
    if not len(table):
        return "no report yet"
    blocks = [_block(task, group) for task, group in table.groupby("task")]
    return "\n\n".join(blocks)


def _block(task: str, group: pd.DataFrame) -> str:
    """Lay out one task: a table, what the target is, and what is missing."""
    columns = text_columns(group)
    dropped: list[str] = []
    optional = _tests(group)
    while len((lines := align(columns))[-1]) > WIDTH and optional:
        dropped.insert(0, optional.pop())
        columns.pop(dropped[0])
    said = notes(group)
    if dropped:
        said.append(f"also in the table: {', '.join(dropped)}")
    said = [_filled(note) for note in said]
    legend = [f"{mark}= {family}" for family, mark in MARKS.items()]
    head = "; ".join([f"{task}: medians over seeds", *legend])
    return "\n".join([*map(_filled, alarms(group)), head, *lines, *said])


def _filled(note: str) -> str:
    return fill(note, WIDTH, subsequent_indent="  ")


def alarms(group: pd.DataFrame) -> list[str]:
    """Say that a ranking is not valid; nothing where it is."""
    said = group.get(COLUMN, pd.Series(dtype=str)).fillna("")
    said = said[said != ""]
    return [sentence({group["task"].iloc[0]: [said.iloc[0]]})] if len(said) else []


def notes(group: pd.DataFrame) -> list[str]:
    """Say what the target of one task is, who reaches it, and what is missing."""
    verdicts = [_verdict_line(group, family) for family in MARKS]
    said = [_target_line(group), *verdicts, *_gap_lines(group)]
    return [note for note in said if note]


def text_columns(group: pd.DataFrame) -> dict[str, list[str]]:
    """Return each printed column: two header lines, then one cell per method."""
    marks = [MARKS.get(family, "  ") for family in group["family"]]
    names = map("".join, zip(marks, map(shorten, group["method"]), strict=True))
    columns = {"method": ["", "  method", *names]}
    columns["best"] = ["valid.", "loss", *map(number, group["best_outer_loss"])]
    quartiles = group["best_outer_loss_q25"], group["best_outer_loss_q75"]
    columns["quartiles"] = ["", "quartiles", *map(span, *quartiles)]
    for name in _tests(group):
        short = name.removeprefix("test_")
        style = per_cent if short == "accuracy" else number
        columns[name] = ["test", short[:8], *map(style, group[name])]
    columns["spent"] = ["spent", "evals", *map(number, group["gradient_evals"])]
    columns["evals"] = ["evals to", "target", *map(number, group["evals_to_target"])]
    seconds = map(number, group["seconds_to_target"])
    columns["seconds"] = ["secs to", "target", *seconds]
    reached = (
        f"{reached}/{targeted}" if targeted else MISSING
        for reached, targeted in zip(group["reached"], group["targeted"], strict=True)
    )
    columns["reached"] = ["", "reached", *reached]
    columns["failed"] = ["failed", "trials", *map(str, group["failed"])]
    return columns


def _tests(group: pd.DataFrame) -> list[str]:
    """Return what was tested on this task: others may have other metrics."""
    names = [name for name in group if name.startswith("test_")]
    return [name for name in names if group[name].notna().any()]


def _target_line(group: pd.DataFrame) -> str:
    """Say which black-box method set the target and what that took."""
    setter = group[group["method"] == group["target_method"]]
    if not len(setter):
        return (
            f"target: {MISSING} (no black-box method has a full-horizon value in half "
            f"of its seeds)"
        )
    best = setter.iloc[0]
    return (
        f"target: in each seed the final loss there of {best.method}, the best "
        f"black-box method (median {number(best.target)}); {best.method} itself needed "
        f"{number(best.evals_to_target)} of its {number(best.gradient_evals)} "
        f"evaluations"
    )


def _verdict_line(group: pd.DataFrame, family: str) -> str:
    """Compare the fastest method of a family with the one that set the target."""
    setter = group[group["method"] == group["target_method"]]
    ours = group[group["family"] == family].dropna(subset=["evals_to_target"])
    if not len(setter) or not len(ours):
        return ""
    ours = ours.sort_values(["evals_to_target", "reached"], ascending=[True, False])
    best, black = ours.iloc[0], setter.iloc[0]
    if not ours["reached"].any():
        return f"no {family} method reaches it in any seed"
    if math.isinf(best.evals_to_target):
        return (
            f"no {family} method reaches it in the median seed; most often "
            f"{best.method}, in {best.reached} of {best.targeted} seeds"
        )
    needed = ratio(best.evals_to_target, black.evals_to_target)
    budget = ratio(best.evals_to_target, black.gradient_evals)
    return (
        f"{best.method} reaches it after {number(best.evals_to_target)} evaluations: "
        f"{needed} what {black.method} needed, {budget} its budget"
    )


def _gap_lines(group: pd.DataFrame) -> list[str]:
    """Say which families and seeds are missing."""
    lines = [
        f"no {family} method has reported yet"
        for family in (HYPERGRADIENT, BLACK_BOX)
        if not (group["family"] == family).any()
    ]
    for row in group.itertuples():
        gaps = {"without a full-horizon value": row.valued, "unfinished": row.finished}
        missing = [
            f"{row.seeds - n} of {row.seeds} seeds {what}"
            for what, n in gaps.items()
            if n < row.seeds
        ]
        if missing:
            lines.append(f"{row.method}: {', '.join(missing)}")
    return lines
