"""Trust in slopes: how far values confirmed them, and how sharp the result is."""

import math

import pandas as pd

from raymeta.analysis.report.rendering import Columns
from raymeta.analysis.tables.frames import STUDY
from raymeta.analysis.tables.text import MISSING, number
from raymeta.results.profile import is_sharp, profile_of, sides
from raymeta.results.schema import TRUST


def trust_columns(frame: pd.DataFrame) -> Columns:
    """A row per task and method that has slopes; no column where none has.

    Args:
        frame: one row per report.
    """
    if "agreement" not in frame or not frame["agreement"].notna().any():
        return {}
    rows = [
        {**dict(zip(STUDY, key, strict=True)), **_of_study(study)}
        for key, study in frame.groupby(STUDY)
        if study["agreement"].notna().any()
    ]
    groups = pd.DataFrame(rows).groupby(["task", "method"])
    medians = groups[["agreement", "roughness", "rejected", "beside"]].median()
    return {
        "task": [task for task, _ in medians.index],
        "method": [method for _, method in medians.index],
        "agreement": [number(value) for value in medians["agreement"]],
        "roughness": [number(value) for value in medians["roughness"]],
        "rejected": [
            MISSING if math.isnan(share) else f"{share:.0%}"
            for share in medians["rejected"]
        ],
        "beside": [number(value) for value in medians["beside"]],
        "sharp": [f"{sharp.sum():.0f} of {len(sharp)}" for _, sharp in groups["sharp"]],
    }


def _of_study(study: pd.DataFrame) -> dict[str, float]:
    """The last that a study says of its slopes, and how much E rises beside it."""
    said = study[study["status"] != "final"]
    last = said[list(TRUST[:-1])].iloc[-1].to_dict()
    profile = profile_of(study)
    if not profile or said["best_outer_loss"].iloc[-1] > min(profile.values()):
        return {**last, "beside": math.nan, "sharp": False}
    start = said["outer_loss"].iloc[0]
    rise = max(sides(profile)) - min(profile.values())
    return {**last, "beside": rise, "sharp": is_sharp(profile, start)}
