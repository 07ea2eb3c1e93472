"""Metrics log of a meta-training run: each rank's rows, and the frame made of them.

Each rank writes rows into parquet files of its own, so that a frame can be put together
whatever ended the run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from raymeta.results.integrity import read_parquet
from raymeta.results.mirror import files
from raymeta.results.run_folder import write_frame
from raymeta.results.schema import TRAINING
from raymeta.types import Tensors

#: Rows of a file; a larger one would take long to write again.
ROWS_PER_FILE = 5_000
#: Characters of a file's attempt, rank and number.
PLAIN = len("0001-0000-0000")


class Rows:
    """A rank's rows.

    Args:
        folder: the folder of all ranks' files.
        attempt: number of this start of the run, from 1.
        rank: this process among all.
        group: name of the processes, where others train other seeds meanwhile.
    """

    def __init__(self, folder: Path, attempt: int, rank: int, group: str = "") -> None:
        self._folder, self._attempt, self._rank = folder, attempt, rank
        self._group = _suffix(group)
        self._rows: list[dict[str, Any]] = []
        #: What is still on the device: (row, names, values).
        self._measured: list[tuple[dict[str, Any], tuple[str, ...], torch.Tensor]] = []
        self._file = self._written = 0
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, row: dict[str, Any], measured: Tensors | None = None) -> None:
        """Add a row; a full file is written.

        Args:
            row: its values by column.
            measured: others, shape (), which stay on their device until they are
                written.
        """
        if len(self._rows) == ROWS_PER_FILE:
            self.flush()
            self._rows, self._written, self._file = [], 0, self._file + 1
        self._rows.append(row | {"attempt": self._attempt, "rank": self._rank})
        if measured is not None:
            values = torch.stack([x.detach().double() for x in measured.values()])
            self._measured.append((self._rows[-1], tuple(measured), values))

    def flush(self) -> None:
        """Write what has been added."""
        if len(self._rows) > self._written:
            self._fetch()
            name = f"{self._attempt:04}-{self._rank:04}-{self._file:04}"
            name += f"{self._group}.parquet"
            write_frame(pd.DataFrame(self._rows), self._folder / name)
            self._written = len(self._rows)

    def _fetch(self) -> None:
        """Copy from the device what is there, all of it at once."""
        if self._measured:
            fetched = torch.cat([values for _, _, values in self._measured]).tolist()
            numbers = iter(fetched)
            for row, names, _ in self._measured:
                row |= {name: next(numbers) for name in names}
            self._measured.clear()


def last_attempt(folder: Path, group: str = "") -> int:
    """How often a group was started before, or all seeds at once; "": any of them."""
    there = [path for path in files(folder) if path.suffix == ".parquet"]
    own = ("", _suffix(group))
    tries = (path for path in there if not group or path.stem[PLAIN:] in own)
    return max((int(path.name[:4]) for path in tries), default=0)


def _suffix(group: str) -> str:
    return f"-{group}" if group else ""


def merged(folder: Path) -> pd.DataFrame:
    """The frame, from all ranks' files.

    What a later attempt did again replaces what an earlier one had done.

    Returns:
        One row per seed, outer step and rank with `split` "train" (`outer_loss` is the
        mean over the rank's `tasks`), and of `split` "val" and "test" one per
        evaluation (the mean over all tasks, `ci95` half the width of its 95 % interval,
        `median` of the tasks; `<metric>_ci95` likewise) with θ after `outer_step`
        updates and `inner_steps` of adaptation. `step_s` is seconds of this step,
        `wall_s` of the seed's training so far.
    """
    parts = [read_parquet(path) for path in sorted(_files(folder))]
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    metrics = sorted(set(rows.columns) - set(TRAINING))
    rows = rows.reindex(columns=[*TRAINING, *metrics])
    rows = rows.astype({name: d for name, d in TRAINING.items() if d != "str"})
    is_test = rows["split"] == "test"
    kept = [
        _latest(rows[~is_test], ["seed", "split", "outer_step"]),
        _latest(rows[is_test], ["seed"]),  # of the θ that was the best in the end
    ]
    order = ["seed", "split", "outer_step", "inner_steps", "rank"]
    return pd.concat(kept).sort_values(order, key=_in_order, ignore_index=True)


def require_rows(folder: Path, frame: pd.DataFrame) -> None:
    """Raise ValueError where rows are gone that a frame was made of.

    Args:
        folder: of all ranks' files.
        frame: what they were put together to.
    """
    if lost := _steps(frame) - _steps(merged(folder)):
        seed, split, step = min(lost)
        raise ValueError(
            f"{folder} lacks rows that the frame beside it has (seed {seed}, {split}, "
            f"outer step {step}): restore its files from a copy, or use another name"
        )


def _steps(frame: pd.DataFrame) -> set[tuple[Any, ...]]:
    """What a frame has of training and validation; later attempts do it anew."""
    rows = frame.loc[frame["split"] != "test", ["seed", "split", "outer_step"]]
    return set(rows.itertuples(index=False, name=None))


def metrics_of(frame: pd.DataFrame) -> list[str]:
    """The columns of a frame that are metrics of its learner."""
    others = set(frame.columns) - set(TRAINING)
    return sorted(name for name in others if not name.endswith("_ci95"))


def _latest(rows: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    if rows.empty:
        return rows
    return rows[rows["attempt"] == rows.groupby(key)["attempt"].transform("max")]


def _in_order(column: pd.Series) -> pd.Series:
    return (
        column.map(["train", "val", "test"].index) if column.name == "split" else column
    )


def _files(folder: Path) -> Iterator[Path]:
    return folder.glob("*.parquet")
