"""Trial store: training states and logs that workers leave for each other."""

import functools
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from raymeta._tree import flatten, tree_leaves, unflatten
from raymeta.results.integrity import DamagedFile
from raymeta.results.mirror import Mirror, is_remote
from raymeta.results.tensors import load_tensors, save_tensors
from raymeta.search.spec import StudyKey
from raymeta.search.worker.evaluation_log import EvaluationLog
from raymeta.types import State


class TrialStore:
    """Where workers leave for each other what they have computed.

    Nothing depends on it but time: a state that is not there is found again by training
    along the hyperparameters that led to it, and a descent without its log starts from
    its beginning; so the folder may lie on a disk that not every node sees, or on an
    object store that is away, and may be deleted.

    Args:
        place: the folder for them, or its address on an object store; nothing is kept
            without one.
    """

    def __init__(self, place: Path | str | None) -> None:
        self._place = place
        if place is not None and not is_remote(place):
            self._place = Path(place).resolve()

    def save(self, study: StudyKey, number: int, steps: int, state: State) -> None:
        """Keep the state of a trial after some training steps."""
        if self._place is None:
            return
        with self._folder(study, number) as (folder, mirror):
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(ValueError):  # what could not be read back, or sent
                save_tensors(folder / f"{steps}.pt", tree_leaves(state))
                if mirror is not None:
                    mirror.sync()

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
        if self._place is None:
            return None
        with self._folder(study, number) as (folder, mirror):
            path = folder / f"{steps}.pt"
            if mirror is not None:
                with suppress(ValueError):
                    mirror.pull(path)
            try:
                leaves = load_tensors(path)
            except DamagedFile:  # or none at all
                return None
        return unflatten(leaves, flatten(like)[1])

    def log(self, study: StudyKey, number: int, signature: str) -> EvaluationLog:
        """What a descent has evaluated so far; see `EvaluationLog`."""
        if self._place is None:
            return EvaluationLog(None, signature)
        if not is_remote(self._place):
            return EvaluationLog(Path(self._path(study, number)), signature)
        scratch = Path(tempfile.mkdtemp(prefix="raymeta-"))
        try:
            mirror = Mirror(self._path(study, number), scratch)
            mirror.fetch()
        except ValueError:
            shutil.rmtree(scratch)
            return EvaluationLog(None, signature)
        return EvaluationLog(scratch, signature, mirror)

    def drop(self, study: StudyKey, number: int) -> None:
        """Remove everything of a trial, on an object store in the background."""
        if self._place is not None:
            self._remove(self._path(study, number))

    def clear(self) -> None:
        """Remove everything."""
        if self._place is not None:
            self._remove(str(self._place), wait=True)

    @contextmanager
    def _folder(
        self, study: StudyKey, number: int
    ) -> Iterator[tuple[Path, Mirror | None]]:
        """The folder of a trial; on an object store an empty one, and its mirror."""
        path = self._path(study, number)
        if not is_remote(path):
            yield Path(path), None
            return
        with tempfile.TemporaryDirectory(prefix="raymeta-") as scratch:
            yield Path(scratch), Mirror(path, Path(scratch))

    def _path(self, study: StudyKey, number: int) -> str:
        name = f"{study.task}/{study.method}/{study.seed}/{number}"
        return f"{self._place}/{quote(name) if is_remote(str(self._place)) else name}"

    @staticmethod
    def _remove(path: str, wait: bool = False) -> None:
        if not is_remote(path):
            shutil.rmtree(path, ignore_errors=True)
            return
        removed = _thread().submit(_discard, path)
        if wait:
            removed.result()


@functools.cache
def _thread() -> ThreadPoolExecutor:
    """What removes from object stores, one thing after another."""
    return ThreadPoolExecutor(1, thread_name_prefix="raymeta-remove")


def _discard(uri: str) -> None:
    with suppress(ValueError):  # the store may be away
        parent, _, name = uri.rpartition("/")
        Mirror(parent, Path()).discard(Path(name))
