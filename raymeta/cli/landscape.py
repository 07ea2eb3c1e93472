"""Loss landscape of a finished comparison, for its report."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from raymeta import analysis, tasks
from raymeta.analysis.figures.comparison import CURVES, SURFACE
from raymeta.errors import said
from raymeta.outer.landscape import learning_curves, loss_surface
from raymeta.results.integrity import read_parquet
from raymeta.results.records import read_record
from raymeta.results.run_folder import write_frame
from raymeta.tasks import Task

#: Takes a task's name, the number of runs done, and of all.
OnRun = Callable[[str, int, int], None]


def write_landscape(
    path: str | Path,
    names: Sequence[str],
    some_tasks: Iterable[Task] | None = None,
    *,
    points: int = 11,
    progress: OnRun | None = None,
    trust: bool = False,
) -> list[Path]:
    """Compute surfaces and loss curves of a comparison; write them beside its frame.

    What it costs is charged to no method. `raymeta.analysis.write_report` draws both.

    Args:
        path: the folder of a comparison or an optimization, or the frame in it.
        names: two continuous hyperparameters, by flat name.
        some_tasks: the tasks, where one was neither a name nor in a file;
            by default all that have both hyperparameters, see `tasks_of`.
        points: number of points of the surface along each side.
        progress: is called before the first run of a task and after each, see `OnRun`.
        trust: whether to run the task files that the folder names; see `tasks_of`.

    Returns:
        surface.parquet and curves.parquet: rows of
        `raymeta.outer.landscape.loss_surface` around the best λ, and of
        `learning_curves` along what one method learnt. Rows of other tasks stay as they
        were.

    Raises:
        ValueError: no task has both; a task was not compared; see `loss_surface`.
    """
    frame, path = analysis.read(path), Path(path)
    folder = path if path.is_dir() else path.parent
    given = (
        list(some_tasks)
        if some_tasks is not None
        else tasks_of(frame, folder, trust=trust)
    )
    chosen = [task for task in given if set(names) <= set(task.space.flat_domains())]
    if not chosen:
        raise ValueError(
            f"a surface needs a task with both {' and '.join(names)}, but {path} has "
            "none that is known by name or by file: name two hyperparameters of one, "
            "or give the task"
        )
    surfaces, curves = [], []
    for task in chosen:
        if task.name not in set(frame["task"]):
            compared = ", ".join(sorted(set(frame["task"])))
            raise ValueError(
                f"a surface is of a task that was compared, but {path} has no "
                f"{task.name!r}: give one of {compared}"
            )
        seed = int(frame.loc[frame["task"] == task.name, "seed"].min())
        around = analysis.best_hparams(frame, task.name, seed)
        method, learnt = analysis.learnt_hparams(frame, task.name, seed)

        show = _Progress(progress, task.name, points * points + len(learnt))
        curves.append(
            learning_curves(task, learnt, seed=seed, progress=show).assign(
                method=method
            )
        )
        show.before = len(learnt)
        surfaces.append(
            loss_surface(
                task, names, at=around, seed=seed, points=points, progress=show
            )
        )
    known = {task.name for task in chosen}
    return [
        _written(folder / SURFACE, surfaces, known),
        _written(folder / CURVES, curves, known),
    ]


class _Progress:
    """Says how many runs of a task are done, whichever part they are of."""

    def __init__(self, on_run: OnRun | None, name: str, total: int) -> None:
        self._on_run, self._name, self._total = on_run, name, total
        self.before = 0
        self(0, total)

    def __call__(self, done: int, total: int) -> None:
        """`done` runs of this part."""
        if self._on_run is not None:
            self._on_run(self._name, self.before + done, self._total)


def tasks_of(frame: pd.DataFrame, folder: Path, *, trust: bool = False) -> list[Task]:
    """The tasks of a frame that are known by name, or by the file that was recorded.

    Args:
        frame: the frame of a comparison or an optimization.
        folder: its record says which file a task is from.
        trust: whether to run that file. A folder that came from elsewhere could name
            any file, and pass it for a task of raymeta.

    Raises:
        ValueError: a file is recorded, and not trusted; it is gone, or has that task no
            more.
    """
    sources = {k: v for k, v in _sources(folder).items() if k in set(frame["task"])}
    if sources and not trust:
        name, source = next(iter(sources.items()))
        raise ValueError(
            f"task {name!r} is in a file, {said(source)} as {folder} has it, which is "
            "not run on its word: name it with --task path.py:Name, or give --trust to "
            "run what the folder names"
        )
    compared = sorted(set(frame["task"]))
    known = [name for name in compared if name in sources or name in tasks.names()]
    return [tasks.get(sources.get(name, name)) for name in known]


def _sources(folder: Path) -> dict[str, str]:
    """Task name -> `path.py:Name`, as the latest run recorded it."""
    record = read_record(folder, "comparison") or read_record(folder, "optimization")
    runs = record.get("runs", [])
    return runs[-1].get("task_files", {}) if runs else {}


def _written(file: Path, tables: list[pd.DataFrame], known: set[str]) -> Path:
    """Write tables, after the rows of other tasks that the file has."""
    if file.exists():
        before = read_parquet(file, "delete it")
        tables = [before[~before["task"].isin(known)], *tables]
    write_frame(pd.concat(tables), file)
    return file
