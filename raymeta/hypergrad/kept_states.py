"""States that are kept by step: in memory, or in files."""

import tempfile
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raymeta._tree import flatten, tree_leaves, unflatten
from raymeta.results.atomic import atomic_write
from raymeta.types import State

Kept = MutableMapping[int, State]
#: Where a tensor was among the leaves of a state.
TENSOR = object()
#: Of their files.
SUFFIX = ".state"


class SpilledStates(MutableMapping[int, State]):
    """States by step, the tensors of each in a file.

    Args:
        folder: of the files; those that are there already are of these states.
        like: a state; all others are like it but for their tensors.
    """

    def __init__(self, folder: Path, like: State) -> None:
        self._folder = folder
        # What is no tensor stays in memory.
        self._rest: dict[int, tuple[list[Any], Any]] = {}
        for path in folder.glob(f"*{SUFFIX}"):
            self._rest[int(path.stem)] = _without_tensors(like)

    def __setitem__(self, step: int, state: State) -> None:
        # Copies: of a view, the whole that it is part of would be written.
        tensors = [x for x in tree_leaves(state) if isinstance(x, Tensor)]
        save([x.detach().clone() for x in tensors], self._path(step))
        self._rest[step] = _without_tensors(state)

    def __getitem__(self, step: int) -> State:
        leaves, spec = self._rest[step]
        tensors = iter(torch.load(self._path(step), weights_only=True))
        return unflatten([next(tensors) if x is TENSOR else x for x in leaves], spec)

    def __delitem__(self, step: int) -> None:
        del self._rest[step]
        self._path(step).unlink()

    def __iter__(self) -> Iterator[int]:
        return iter(self._rest)

    def __len__(self) -> int:
        return len(self._rest)

    def _path(self, step: int) -> Path:
        return self._folder / f"{step}{SUFFIX}"


@contextmanager
def kept_states(spill: str | None, like: State) -> Iterator[Kept]:
    """States in memory; with a folder, in files there, which are gone afterwards.

    Args:
        spill: the folder.
        like: the first of them.
    """
    if spill is None:
        yield {}
        return
    require_folder(spill)
    try:
        made = tempfile.TemporaryDirectory(prefix="states-", dir=spill)
    except OSError as error:
        raise _unwritten(Path(spill), error) from error
    with made as folder:
        yield SpilledStates(Path(folder), like)


def save(values: Any, path: Path) -> None:
    """Write tensors into a file.

    Raises:
        ValueError: the disk is full.
    """
    try:
        with atomic_write(path) as file:
            torch.save(values, file)
    except (OSError, RuntimeError) as error:  # torch's own, where a disk is full
        raise _unwritten(path.parent, error) from error


def _without_tensors(state: State) -> tuple[list[Any], Any]:
    leaves, spec = flatten(state)
    return [TENSOR if isinstance(x, Tensor) else x for x in leaves], spec


def require_folder(spill: str) -> None:
    """Raise ValueError unless there is a folder for states."""
    if not Path(spill).is_dir():
        raise ValueError(
            f"Checkpointed needs a folder to spill states into, but spill={spill!r} is "
            "none: make it first"
        )


def _unwritten(folder: Path, error: Exception) -> ValueError:
    reason = error.__context__ if isinstance(error.__context__, OSError) else error
    return ValueError(
        f"Checkpointed cannot write a state into {str(folder)!r}: "
        f"{str(reason).splitlines()[0]}; spill into a folder with more room, or keep "
        "fewer states (states=, memory=)"
    )
