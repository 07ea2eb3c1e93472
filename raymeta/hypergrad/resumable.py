"""Backward passes that go on where they were killed: files, and what tells them."""

import hashlib
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from raymeta._tree import flatten, named_leaves, unflatten
from raymeta.errors import said
from raymeta.hypergrad.base import advance
from raymeta.hypergrad.kept_states import (
    Kept,
    SpilledStates,
    kept_states,
    require_folder,
    save,
)
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams, State

#: The share of the time that is spent on noting where a backward pass stands, at most.
SHARE = 0.05


class Position(NamedTuple):
    """Where a backward pass stands.

    Attributes:
        done: how many steps were differentiated.
        alpha: dE/ds_t, see `Adjoint`.
        g: what dE/dλ has gathered, likewise.
        outer_loss: E(s_T, λ).
        s_T: the state at the end.
    """

    done: int
    alpha: list[Tensor | None]
    g: list[Tensor | None]
    outer_loss: Tensor
    s_T: State  # the paper's letter


class Journal:
    """Notes where a backward pass stands, now and then.

    Args:
        path: of the file; None where nothing is noted.
        like: a state, of the structure of all others.
    """

    def __init__(self, path: Path | None, like: State) -> None:
        self._path, self._like = path, like
        self._due = -math.inf

    def read(self) -> Position | None:
        """Where it stood; None at the start."""
        if self._path is None or not self._path.exists():
            return None
        found = Position(*torch.load(self._path, weights_only=True))
        return found._replace(s_T=unflatten(found.s_T, flatten(self._like)[1]))

    def note(self, position: Position) -> None:
        """Write it down, where that is due."""
        begin = time.monotonic()
        if self._path is None or begin < self._due:
            return
        leaves = flatten(position.s_T)[0]
        save(tuple(position._replace(s_T=leaves)), self._path)
        now = time.monotonic()
        self._due = now + (now - begin) / SHARE


@contextmanager
def forgotten(spill: str | None, s_0: State) -> Iterator[tuple[Kept, Journal]]:
    """States of an estimate that begins anew whenever it is made."""
    with kept_states(spill, s_0) as kept:
        yield kept, Journal(None, s_0)


@contextmanager
def resumed(spill: str, run: str, s_0: State) -> Iterator[tuple[Kept, Journal]]:
    """States of an estimate that goes on; its folder is gone when it is through.

    Args:
        spill: an existing folder.
        run: what it is known by.
        s_0: the first state.
    """
    require_folder(spill)
    folder = Path(spill) / f"run-{run}"
    folder.mkdir(exist_ok=True)
    with closing(SpilledStates(folder, s_0)) as kept:
        yield kept, Journal(folder / "position", s_0)
    shutil.rmtree(folder)


def fingerprint(
    problem: BilevelProblem, hparams: Hparams, s_0: State, steps: int, knobs: str
) -> str:
    """What a run is known by: its inputs, and what the first step makes of them.

    Args:
        problem: what is trained.
        hparams: λ.
        s_0: where it starts.
        steps: T.
        knobs: of the estimator.
    """
    s_1 = advance(problem, hparams, s_0, 0, 1)
    with torch.no_grad():
        outer_loss = problem.outer_loss(s_1, hparams)
    seen = (hparams, s_0, problem.batch(0), problem.batch(steps - 1), s_1, outer_loss)
    digest = hashlib.sha256(f"{torch.__version__} {knobs}".encode())
    for place, x in named_leaves(seen).items():
        digest.update(place.encode())
        digest.update(_bytes(x) if isinstance(x, Tensor) else repr(x).encode())
    return digest.hexdigest()[:16]


def require_resumable(s_0: State) -> None:
    """Raise ValueError where an estimate could not go on.

    Args:
        s_0: its first state.
    """
    rule = "Checkpointed(resume=True) goes on"
    if dist.is_initialized() and dist.get_world_size() > 1:
        ranks = dist.get_world_size()
        raise ValueError(
            f"{rule} in one process, but got {ranks} ranks: leave resume out"
        )
    for place, x in named_leaves(s_0).items():
        if not isinstance(x, Tensor) and x is not None:
            raise ValueError(
                f"{rule} from states of tensors, but state{place} is {said(x)}: make "
                "it a tensor"
            )


def _bytes(x: Tensor) -> Any:
    flat = x.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
