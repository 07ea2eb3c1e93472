"""What was learnt, step by step: as a frame, a figure, and a schedule."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import pandas as pd


class History:
    """The values of every step, 8 bytes each, and how often the guards acted.

    Args:
        state: what `state` gave, to go on from.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self.counts = {"null_steps": 0, "non_finite": 0, "clipped": 0}
        self.counts |= state.get("counts", {})
        self.in_a_row = state.get("in_a_row", 0)
        self._null = array("b", state["null"].tolist() if state else ())
        #: Column -> its first step, and its values.
        self._columns: dict[str, tuple[int, array]] = {
            name: (first, array("d", values.tolist()))
            for name, (first, values) in state.get("columns", {}).items()
        }

    def state(self) -> dict[str, Any]:
        """The same as tensors and numbers."""
        columns = {
            name: (first, torch.tensor(values.tolist(), dtype=torch.float64))
            for name, (first, values) in self._columns.items()
        }
        null = torch.tensor(self._null.tolist(), dtype=torch.int8)
        return {
            "null": null,
            "columns": columns,
            "counts": dict(self.counts),
            "in_a_row": self.in_a_row,
        }

    def add(self, groups: Sequence[Mapping[str, Any]], *, null: bool) -> None:
        """Note the values with which a step was taken, or that none was."""
        step = len(self._null)
        self._null.append(null)
        for name, value in _values(groups):
            first, values = self._columns.setdefault(name, (step, array("d")))
            missing = step - first - len(values)
            last = values[-1] if values else float("nan")
            values.extend([last] * missing)
            values.append(value)

    def frame(self) -> pd.DataFrame:
        """One row per step."""
        import pandas as pd

        steps = len(self._null)
        columns: dict[str, Any] = {"step": range(steps)}
        for name in self._columns:
            columns[name] = self._full(name)
        columns["null"] = [bool(n) for n in self._null]
        return pd.DataFrame(columns)

    def schedule(self) -> list[tuple[int, dict[str, float]]]:
        """λ by column as `Result.schedule` has it: (number of steps, values)."""
        full = {name: self._full(name) for name in self._columns}
        found: list[tuple[int, dict[str, float]]] = []
        for step in range(len(self._null)):
            values = {name: column[step] for name, column in full.items()}
            if found and found[-1][1] == values:
                found[-1] = (found[-1][0] + 1, values)
            else:
                found.append((1, values))
        return found

    def plot(self, path: str | Path | None) -> Any:
        """A figure with one row per hyperparameter."""
        from matplotlib.figure import Figure

        kinds = list(dict.fromkeys(name.split("[")[0] for name in self._columns))
        figure = Figure(figsize=(6.4, 2.2 * max(len(kinds), 1)), layout="constrained")
        rows = figure.subplots(max(len(kinds), 1), sharex=True, squeeze=False)[:, 0]
        for kind, axes in zip(kinds, rows, strict=False):
            for name in self._columns:
                if name.split("[")[0] == kind:
                    axes.plot(self._full(name), label=name, linewidth=1)
            if kind in ("lr", "weight_decay"):
                axes.set_yscale("log")
            axes.set_ylabel(kind)
        rows[-1].set_xlabel("step")
        if path is not None:
            figure.savefig(path)
        return figure

    def _full(self, name: str) -> list[float]:
        first, values = self._columns[name]
        after = len(self._null) - first - len(values)
        last = values[-1] if values else float("nan")
        return [float("nan")] * first + list(values) + [last] * after


def labelled(name: str, group: int, groups: int) -> str:
    """A hyperparameter's column: with the group's number where there are several."""
    return name if groups == 1 else f"{name}[{group}]"


def _values(groups: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    for g, group in enumerate(groups):
        for record in group["last"]:
            for name in group["learn"]:
                label = labelled(name, g, len(groups))
                if group["own"]:
                    label = f"{name}[{g},{record['index'][0]}]"
                yield label, record["values"][name]
