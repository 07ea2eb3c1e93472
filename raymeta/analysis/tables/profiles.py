"""Performance profiles: how often a method is how much slower than the fastest."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from raymeta.analysis.tables.targets import to_target

COLUMNS = ["method", "family", "ratio", "share"]


def performance_profile(
    frame: pd.DataFrame,
    target: float | Mapping[str, float] | None = None,
    x: str = "gradient_evals",
) -> pd.DataFrame:
    r"""Compute the performance profiles of a comparison's methods.

    $$ r_{p,s} = \frac{t_{p,s}}{\min_{s'} t_{p,s'}},\qquad
       \rho_s(\tau) = \frac{\#\{p : r_{p,s} \le \tau\}}{\#\,p} $$

    A problem p is a task under a seed, and t what a method spends there until the
    target; one that never arrives, or did not run, counts as infinitely slow. Problems
    that no method solves count, too.

    Args:
        frame: one row per report.
        target: see `to_target`.
        x: `gradient_evals` (forward+backward passes) or `wall_s` (compute seconds).

    Returns:
        One row per step of ρ: `method`, `family`, `ratio` (τ), `share` (ρ at it); the
        first of a method at τ = 1. Methods in the order of their areas, best first.

    Raises:
        ValueError: A required column is missing.

    Source: Dolan & Moré 2002, section 2.
    """
    table = to_target(frame, target, x)
    families = dict(zip(table["method"], table["family"], strict=True))
    needed = table.set_index(["task", "seed", "method"])["needed"]
    times = needed.unstack("method").fillna(np.inf)
    fastest = times.min(axis=1)
    solved = np.isfinite(fastest)
    ratios = times[solved].div(fastest[solved].clip(lower=np.finfo(float).tiny), axis=0)
    end = ratios.to_numpy()[np.isfinite(ratios.to_numpy())].max(initial=1.0)
    rows: dict[str, list[tuple[str, str, float, float]]] = {}
    areas: dict[str, tuple[float, float]] = {}
    for method in times.columns:
        steps = np.sort(ratios[method][np.isfinite(ratios[method])])
        taus = np.unique(np.append(1.0, steps))
        shares = np.searchsorted(steps, taus, side="right") / len(times)
        widths = np.diff(np.log(np.append(taus, end)))
        areas[method] = (float((shares * widths).sum()), float(shares[-1]))
        rows[method] = [
            (method, families[method], tau, share)
            for tau, share in zip(taus, shares, strict=True)
        ]
    best_first = sorted(areas, key=areas.__getitem__)[::-1]
    return pd.DataFrame([row for m in best_first for row in rows[m]], columns=COLUMNS)
