"""Profiles of what a descent returns: the outer loss there and beside it."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

#: A point is sharp where more than this share of what was gained is lost beside it.
SHARP = 0.1


def profile_of(rows: "pd.DataFrame") -> dict[float, float]:
    """E at the point that a descent looked at in the end, and beside it.

    Args:
        rows: the reports of one study, in order.

    Returns:
        E by offset, in order: 0 at the point, the best until then, negative downhill;
        ∞ where training diverged. Empty where there were no looks beside it, or there
        is no such point.
    """
    if "offset" not in rows:
        return {}
    rows = rows[rows["status"] != "final"].reset_index(drop=True)
    looks = rows[rows["offset"].notna() & (rows["offset"] != 0)]
    if not len(looks):
        return {}
    before = rows.iloc[: looks.index[0]]
    centre = before["outer_loss"][before["status"] == "complete"].min()
    if math.isnan(centre):
        return {}
    values = looks["outer_loss"].fillna(math.inf)
    beside = dict(zip(looks["offset"], values, strict=True))
    return dict(sorted({**beside, 0.0: float(centre)}.items()))


def sides(profile: Mapping[float, float]) -> list[float]:
    """E on both sides of the lowest point of a profile, or on one."""
    values = list(profile.values())
    lowest = values.index(min(values))
    return [values[i] for i in (lowest - 1, lowest + 1) if 0 <= i < len(values)]


def is_sharp(profile: Mapping[float, float], start: float) -> bool:
    """Whether much of what was gained is lost beside the lowest point of a profile.

    Args:
        profile: see `profile_of`.
        start: E of training at the start.
    """
    lowest = min(profile.values())
    return max(sides(profile)) - lowest > SHARP * (start - lowest)


def sentence(profile: Mapping[float, float], start: float, returned: float) -> str:
    """A profile in words.

    Args:
        profile: see `profile_of`; not empty.
        start: E of training at the start.
        returned: E of what is returned; above the profile where that was given up.
    """
    beside = " and ".join(f"{value:.4g}" for value in sides(profile))
    lost = f"more than {SHARP:.0%} of what was gained is lost there"
    verdict = f"a sharp point, {lost}" if is_sharp(profile, start) else "a flat point"
    if returned > min(profile.values()):
        verdict = "a lucky point, and another is returned that is good nearby, too"
    return f"outer loss {min(profile.values()):.4g}, beside it {beside}: {verdict}"
