"""Trial store: training states and logs that workers leave for each other."""

import shutil
from contextlib import suppress
from pathlib import Path

from raymeta._tree import flatten, tree_leaves, unflatten
from raymeta.results.tensors import load_tensors, save_tensors
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
        folder: the folder for them; nothing is kept without one.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def save(self, study: StudyKey, number: int, steps: int, state: State) -> None:
        """Keep the state of a trial after some training steps."""
        if self._folder is None:
            return
        path = self._path(study, number, steps)
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(ValueError):  # what could not be read back
            save_tensors(path, tree_leaves(state))

    def load(
        self, study: StudyKey, number: int, steps: int, like: State
    ) -> State | None:
        """The state of a trial after some training steps; None if it is not there.

        Args:
            study: the study that the trial belongs to.
            number: its number there.
            steps: how many training steps it had done.
            like: any state of the same structure.
        """
        if self._folder is None:
            return None
        try:
            leaves = load_tensors(self._path(study, number, steps))
        except FileNotFoundError:
            return None
        return unflatten(leaves, flatten(like)[1])

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
