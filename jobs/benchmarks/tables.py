"""What was measured, as tables."""

import numpy as np
import pandas as pd

from jobs.benchmarks.methods import HIGHER, PLAIN

#: What a method's memory should grow with, by the power of T.
GROWTHS = {0.0: "nothing", 0.5: "√T", 1.0: "T"}


def time_table(times: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds a step, and ratios within a round: median (min–max)."""
    rows = []
    for (model, steps), of_case in times.groupby(["model", "steps"], sort=False):
        seconds = of_case.pivot(index="round", columns="method", values="seconds")
        for method in of_case["method"].unique():
            per_step = 1e3 * seconds[method].median() / steps
            row = {"model": model, "T": steps, "method": method, "ms/step": per_step}
            for base in (PLAIN, HIGHER):
                ratio = seconds[method] / seconds[base]
                spread = f"({ratio.min():.2f}–{ratio.max():.2f})"
                row[f"over {base}"] = f"{ratio.median():.2f} {spread}"
            rows.append(row)
    return pd.DataFrame(rows)


def memory_table(memory: pd.DataFrame) -> pd.DataFrame:
    """Megabytes of a run, a column per model."""
    megabytes = memory.set_index(["method", "model"])["peak_bytes"] / 1e6
    return megabytes.unstack(sort=False).reset_index()


def growth_table(growth: pd.DataFrame) -> pd.DataFrame:
    """How each method's memory grows with the steps, and whether it should."""
    rows = []
    for (method, power), peaks in growth.groupby(["method", "power"], sort=False):
        steps, peak = peaks["steps"].to_numpy(), peaks["peak_bytes"].to_numpy()
        unit = steps ** (power or 1.0)
        slope, start = np.polyfit(unit, peak, 1)
        residual = np.max(np.abs(slope * unit + start - peak) / peak)
        more = peak.max() / peak.min() - 1
        passed = residual <= 0.05 < more if power else more <= 0.05
        rows.append((method, GROWTHS[power], slope, residual, more, passed))
    columns = [
        "method",
        "grows with",
        "bytes each",
        "residual",
        "growth",
        "as expected",
    ]
    return pd.DataFrame(rows, columns=columns)
