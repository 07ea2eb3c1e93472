"""What workers leave in the folder of the comparison: training states, and logs."""

import os
import shutil
from pathlib import Path

import torch

from raymeta._tree import flatten, unflatten
from raymeta.search.spec import StudyKey
from raymeta.search.worker.evaluation_log import EvaluationLog
from raymeta.types import State


class TrialStore:
    """Where workers leave for each other what they have computed.

    Nothing depends on it but time: a state that is not there is found again by training
    along the hyperparameters that led to it, and a descent without its log starts from
    its beginning; so the folder may lie on a disk that not every node sees, and may be
    deleted.

    Args:
        folder: where they are; nothing is kept without one.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def save(self, study: StudyKey, number: int, steps: int, state: State) -> None:
        """Keep the state of a trial after some training steps."""
        if self._folder is None:
            return
        path = self._path(study, number, steps)
        path.parent.mkdir(parents=True, exist_ok=True)
        leaves, _ = flatten(state)
        half = path.with_suffix(f".{os.getpid()}")
        torch.save(leaves, half)
        half.replace(path)

    def load(
        self, study: StudyKey, number: int, steps: int, like: State
    ) -> State | None:
        """The state of a trial after some training steps; None if it is not there.

        Args:
            study: to which the trial belongs.
            number: of the trial.
            steps: of training.
            like: any state of the same structure.
        """
        if self._folder is None:
            return None
        try:
            leaves = torch.load(self._path(study, number, steps))
        except FileNotFoundError:
            return None
        _, structure = flatten(like)
        return unflatten(leaves, structure)

    def log(self, study: StudyKey, number: int, signature: str) -> EvaluationLog:
        """What a descent has evaluated so far; see `EvaluationLog`."""
        folder = None if self._folder is None else self._folder_of(study, number)
        return EvaluationLog(folder, signature)

    def drop(self, study: StudyKey, number: int) -> None:
        """Remove everything of a trial."""
        if self._folder is not None:
            shutil.rmtree(self._folder_of(study, number), ignore_errors=True)

    def clear(self) -> None:
        """Remove everything."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, study: StudyKey, number: int, steps: int) -> Path:
        return self._folder_of(study, number) / f"{steps}.pt"

    def _folder_of(self, study: StudyKey, number: int) -> Path:
        assert self._folder is not None
        return self._folder.joinpath(
            study.task, study.method, str(study.seed), str(number)
        )
