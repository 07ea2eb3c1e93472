"""TensorBoard's curves, beside the frame that they are drawn from."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO

import pandas as pd

from raymeta.process import preserved

with preserved():  # a variable for its checksums
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import RecordWriter, register_writer_factory

FOLDER = "tensorboard"
#: How often TensorBoard itself looks.
SHOW_EVERY_S = 30.0
#: Bytes after which a curve goes on in another file: an object store takes only whole
#: ones, again whenever they have grown.
FILE_BYTES = 1 << 15


class _Appended:
    """Files of tensorboardX that are gone on with: `append:<path>`."""

    def open(self, path: str) -> IO[bytes]:
        return Path(path.removeprefix("append:")).open("ab")


# Not its `SummaryWriter`, of which each curve needs one: 300 of them hold 900 open
# files and 600 threads, none goes on with a file, and on a full disk it waits for ever.
register_writer_factory("append", _Appended())


class TensorBoardWriter:
    """Event files in the subfolder `tensorboard`, which TensorBoard reads.

    They show what the frame holds. A job that is continued writes all of it again, to
    new files, whose beginning tells TensorBoard to drop what it has read of the old.

    Args:
        folder: the folder of the results.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._begun = time.time()
        self._shown: dict[str, float] = {}
        self._files: dict[str, int] = {}
        self._last = -math.inf

    def is_due(self) -> bool:
        """Whether curves were shown last so long ago that they are to be shown again.

        What a run ends with is shown without asking.
        """
        return time.monotonic() - self._last > SHOW_EVERY_S

    def extend(
        self, run: str, rows: pd.DataFrame, *, step: str, values: Sequence[str]
    ) -> None:
        """Append what a curve has more than the last time.

        Args:
            run: TensorBoard's name for it, a path of words.
            rows: all of them so far, increasing in `step`, with `wall_s`.
            step: column of the horizontal axis.
            values: columns to draw.
        """
        self._last = time.monotonic()
        new = rows[rows[step] > self._shown.get(run, -math.inf)]
        if new.empty:
            return
        events = list(self._points(new, step, values))
        begins = run not in self._shown
        self._shown[run] = float(new[step].max())
        file = self._file(run)
        if not file.exists():
            events = [*self._opening(begins), *events]
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(RecordWriter(f"append:{file}")) as writer:
            for event in events:
                writer.write(event.SerializeToString())

    def _file(self, run: str) -> Path:
        """The file in which a curve goes on; in the order of their names."""
        number = self._files.setdefault(run, 0)
        name = f"events.out.tfevents.{self._begun:017.6f}"
        file = self._folder / run / (f"{name}.{number:06}" if number else name)
        if file.exists() and file.stat().st_size >= FILE_BYTES:
            self._files[run] += 1
            return self._file(run)
        return file

    def _opening(self, begins: bool) -> list[Event]:
        """TensorBoard's mark of a file, and of a run that starts again at step 0."""
        start = SessionLog(status=SessionLog.START)
        return [
            Event(wall_time=self._begun, file_version="brain.Event:2"),
            *[Event(wall_time=self._begun, session_log=start)] * begins,
        ]

    def _points(
        self, rows: pd.DataFrame, step: str, values: Sequence[str]
    ) -> Iterator[Event]:
        columns = [rows[name] for name in (step, "wall_s", *values)]
        for at, wall_s, *numbers in zip(*columns, strict=True):
            scalars = [
                Summary.Value(tag=name, simple_value=float(number))
                for name, number in zip(values, numbers, strict=True)
            ]
            yield Event(
                wall_time=self._begun + wall_s,
                step=round(at),
                summary=Summary(value=scalars),
            )


def show_training(
    writer: TensorBoardWriter, frame: pd.DataFrame, metrics: Sequence[str]
) -> None:
    """The mean over tasks of each outer step, and of the validations.

    Args:
        writer: the files to show them in, as runs `seed-<seed>/train` and `…/val`.
        frame: the frame of a meta-training run, see `raymeta.train.metrics_log.merged`.
        metrics: columns beside `outer_loss`.
    """
    values = ["outer_loss", *metrics]
    for (seed, split), rows in frame.groupby(["seed", "split"]):
        run = f"seed-{seed}/{split}"
        if split == "val":
            writer.extend(run, rows, step="outer_step", values=values)
        if split == "train":
            # One rank's rows may be on the disk before another's, also where an attempt
            # does again what one before it has done to the end: a curve waits there.
            ranks = rows.groupby("outer_step")["rank"].transform("size")
            whole = rows[(ranks == rows["workers"]).cummin()]
            steps = _over_ranks(whole, [*values, "grad_norm"])
            writer.extend(run, steps, step="outer_step", values=[*values, "grad_norm"])


def _over_ranks(rows: pd.DataFrame, values: Sequence[str]) -> pd.DataFrame:
    """Means over the tasks of all ranks, by outer step."""
    step = rows["outer_step"]
    tasks = rows["tasks"].groupby(step).sum()
    means = rows[values].mul(rows["tasks"], axis=0).groupby(step).sum()
    means = means.div(tasks, axis=0).where(rows[values].notna().groupby(step).all())
    return means.assign(wall_s=rows["wall_s"].groupby(step).max()).reset_index()


def show_comparison(writer: TensorBoardWriter, frame: pd.DataFrame) -> None:
    """The lowest outer loss so far against gradient evaluations, for each study.

    Args:
        writer: the files to show it in, as runs `<task>/<method>/seed-<seed>`.
        frame: the frame of a comparison, see `raymeta.search.frame.to_frame`.
    """
    found = frame[frame["best_outer_loss"].notna()]
    for (task, method, seed), rows in found.groupby(["task", "method", "seed"]):
        writer.extend(
            f"{task}/{method}/seed-{seed}",
            rows,
            step="gradient_evals",
            values=["best_outer_loss"],
        )
