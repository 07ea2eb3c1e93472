"""Checkpoints: written in the background, kept to the best and the last few."""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from raymeta._tree import tree_map
from raymeta.results.integrity import DamagedFile
from raymeta.results.mirror import address, delete, download, files, upload
from raymeta.results.tensors import load_tensors, save_tensors
from raymeta.train.config import TrainConfig
from raymeta.types import Tensors

BEST = "best.pt"
#: What a file holds: step, theta, optimizer, val_loss and more.
Checkpoint = dict[str, Any]
#: What one must have, to be told from another file of tensors.
_NEEDS = {"algorithm", "family", "step", "theta", "optimizer"}


class Checkpoints:
    """The checkpoints of one seed's training.

    Args:
        folder: the folder of `best.pt` and `step-<outer step>.pt`.
        keep: number of the last ones that stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="raymeta-checkpoint")
        self._last: Future[None] | None = None
        self._untold: dict[str, Any] = {}

    def save(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """Copy a checkpoint and write it in the background, after the one before."""
        self.wait()
        if self._last is None:
            # Of an attempt that was killed.
            for aside in self._folder.glob("*.pt.*.tmp"):
                aside.unlink(missing_ok=True)
        copy = tree_map(
            lambda x: x.detach().to("cpu", copy=True) if isinstance(x, Tensor) else x,
            checkpoint,
        )
        self._last = self._thread.submit(self._write, copy, best)
        said = {name: checkpoint[name] for name in ("step", "val_loss")}
        self._untold = said | {"best": best}

    def take_written(self) -> dict[str, Any]:
        """Step, val_loss and best of the last one, once, when it is on the disk.

        Raises what went wrong there.
        """
        if self._last is None or not self._last.done():
            return {}
        self._last.result()
        told, self._untold = self._untold, {}
        return told

    def wait(self) -> None:
        """Until everything is on the disk; raises what went wrong there."""
        if self._last is not None:
            self._last.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        self._thread.shutdown()
        self.wait()

    def _write(self, checkpoint: Checkpoint, best: bool) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # The best first: a step's file says that all of the step is there.
        names = [BEST] * best + [f"step-{checkpoint['step']:08}.pt"]
        for name in names:
            save_tensors(self._folder / name, checkpoint, sync=True)
            upload(self._folder / name)
        for old in _steps(self._folder)[: -self._keep]:
            delete(old)


def last_step(folder: Path) -> int | None:
    """The outer step of the last checkpoint; None without any."""
    files = _steps(folder)
    return int(files[-1].stem.removeprefix("step-")) if files else None


def set_aside(folder: Path, config: TrainConfig, theta: Tensors) -> list[str]:
    """Rename damaged checkpoints after the last good one; says so, line by line.

    Args:
        folder: a seed's.
        config: the settings of the run that is to go on from the good one.
        theta: see `load`.

    Raises:
        DamagedFile: no checkpoint is good, or the best one is not.
        ValueError: the good one is of another run, see `load`.
    """
    lines: list[str] = []
    if (best := download(folder / BEST)).exists():
        read(best)
    while steps := _steps(folder):
        try:
            load(steps[-1], config, theta)
            break
        except DamagedFile as error:
            if len(steps) == 1:
                raise
            damaged = steps[-1]
            shutil.copy(damaged, damaged.with_name(f"{damaged.name}.damaged"))
            delete(damaged)
            lines.append(
                f"{address(damaged)} is not used, for {error.reason}: it goes on from "
                f"{steps[-2].name}, and keeps the other as {damaged.name}.damaged"
            )
    return lines


def load(path: Path, config: TrainConfig, theta: Tensors) -> Checkpoint:
    """Read a checkpoint for a run.

    Args:
        path: the file.
        config: the run's settings.
        theta: the run's own meta-parameters, which it must fit.

    Raises:
        ValueError: it is of another algorithm or family, θ has other shapes, or it has
            done more outer steps than the run, or it cannot be read.
    """
    checkpoint = read(path)
    for what, mine in (("algorithm", config.algorithm), ("family", config.family.name)):
        if checkpoint[what] != mine:
            raise ValueError(
                f"{path} is a checkpoint of {what} {checkpoint[what]!r}, but this run "
                f"is of {mine!r}: use another name, or the same {what}"
            )
    require_theta(path, checkpoint["theta"], theta)
    if checkpoint["step"] > config.outer_steps:
        raise ValueError(
            f"{path} has done {checkpoint['step']} outer steps, but the run has "
            f"outer_steps={config.outer_steps}: give as many, or another name"
        )
    return checkpoint


def require_theta(path: Path, theirs: Tensors, mine: Tensors) -> None:
    """Raise ValueError unless a checkpoint's θ has the names and shapes of ours."""
    then, now = _shapes(theirs), _shapes(mine)
    for name in {**now, **then}:
        if then.get(name) != now.get(name):
            raise ValueError(
                f"{path} is a checkpoint of another θ: {name!r} is "
                f"{then.get(name, 'not there')} in it and {now.get(name, 'not there')} "
                "in this run: use another name, or the model it was made with"
            )


def read(path: Path) -> Checkpoint:
    """What is in the file of a checkpoint.

    Raises:
        ValueError: it cannot be read.
    """
    # Only a disk or a person can have damaged it: it was written in one piece.
    remedy = "delete it, and the run goes on from the one before, or begins anew"
    if path.name == BEST:
        remedy = "restore it from a copy, or use another name"
    found = load_tensors(download(path), "cpu", remedy)
    if not isinstance(found, dict) or not found.keys() >= _NEEDS:
        raise DamagedFile(path, "it is no checkpoint of a training", remedy)
    return found


def seed_folder(path: Path, seed: int) -> Path:
    """The folder of a seed's checkpoints and pictures, in that of its run."""
    return path / f"seed-{seed}"


def step_file(folder: Path, step: int) -> Path:
    """The checkpoint after this outer step."""
    return folder / f"step-{step:08}.pt"


def _steps(folder: Path) -> list[Path]:
    return [path for path in files(folder) if path.match("step-*.pt")]


def _shapes(theta: Tensors) -> dict[str, str]:
    return {
        name: f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
        for name, value in theta.items()
    }
