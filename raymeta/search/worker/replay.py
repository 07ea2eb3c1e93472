"""Replay of what a descent has evaluated: a killed one goes on where it was."""

import functools
import hashlib
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from raymeta._tree import Spec, flatten, is_differentiable, tree_leaves, unflatten
from raymeta.hypergrad import Estimator, Hypergradient, Rollout
from raymeta.outer.evaluator import Evaluator, Trained
from raymeta.problem import BilevelProblem
from raymeta.results.tensors import spec_of
from raymeta.runtime.source_code import code_of
from raymeta.search.methods import Method
from raymeta.search.spec import TrialSpec
from raymeta.search.worker.evaluation_log import EvaluationLog, LogRecord
from raymeta.search.worker.stopwatch import Stopwatch
from raymeta.tasks.base import Task
from raymeta.types import Hparams, State, Tensors


class ReplayMismatch(Exception):
    """A descent asks for something else than its log holds."""


class ReplayingEvaluator(Evaluator):
    """Evaluations that are written down as they are made, and not made again.

    The same descent, asking anew from its beginning, is given what was written, without
    states; where that ends it gets the last state, where it needs one, and the rest is
    computed.

    Args:
        log: where they are written.
        stopwatch: the trial's; while the log is played it shows what it showed then.
    """

    def __init__(self, log: EvaluationLog, stopwatch: Stopwatch) -> None:
        self._log, self._stopwatch = log, stopwatch
        self._records, self._left = log.records(), log.snapshot.length
        self._structure: Spec = None  # of the rollouts of the run that is played
        self._last: Rollout | None = None
        self._best: State | None = None

    def estimate(
        self,
        estimator: Estimator,
        problem: BilevelProblem,
        hparams: Hparams,
        rollout: Rollout,
    ) -> tuple[Hypergradient, Rollout]:
        """From the log, or computed; then gradients are float64 and on the CPU.

        Raises:
            OverflowError: as the estimator does.
            ReplayMismatch: the log has something else.
        """
        asked = _checksum(hparams, "estimate", rollout.step, estimator.steps)
        if self._left:
            return self._estimated(asked, hparams, rollout)
        self._about_to_compute(rollout)
        try:
            hyper, ahead = super().estimate(estimator, problem, hparams, rollout)
        except OverflowError:
            self._write(asked, rollout.step, ())
            raise
        self._write(
            asked,
            ahead.step,
            (float(hyper.outer_loss),),
            charge=hyper.gradient_evals,
            residual=math.nan if hyper.residual is None else hyper.residual,
            gradient=_flat(hyper.grads[name] for name in _learned(hparams)),
        )
        self._last = ahead
        return hyper, ahead

    def run(
        self,
        hparams: Hparams,
        horizon: int,
        train: Callable[[], Trained],
        rollout: Rollout | None = None,
    ) -> Trained:
        """From the log, or computed.

        Raises:
            ReplayMismatch: the log has something else.
        """
        asked = _checksum(hparams, "run", rollout.step if rollout else 0, horizon)
        if self._left:
            return None, list(self._next(asked).values)
        self._about_to_compute(rollout)
        state, values = super().run(hparams, horizon, train, rollout)
        self._write(asked, horizon, values)
        return state, values

    def keep(self, state: State | None) -> None:
        """The state of the best run so far; None while the log is played."""
        if state is not None:
            self._best = state
            self._log.snapshot = self._log.snapshot._replace(best=None)

    def kept(self, like: Callable[[], State]) -> State:
        """The state of the best run.

        Args:
            like: gives any state of the same structure.
        """
        if self._best is not None:
            return self._best
        return unflatten(self._log.snapshot.best or [], flatten(like())[1])

    def save(self) -> None:
        """Keep all evaluations, of a descent that has come to its end."""
        if not self._left:
            self._save(None)

    def end(self) -> None:
        """The descent has come to its end.

        Raises:
            ReplayMismatch: the log has more.
        """
        if self._left:
            self._discard("the descent has ended, and its log has not")
        self.close()

    def close(self) -> None:
        """Nothing more will be asked."""
        self._log.close()

    def _estimated(
        self, asked: int, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """The next estimate on the log."""
        if rollout.state is not None:
            self._structure = flatten(rollout.state)[1]
        found = self._next(asked)
        if not found.values:
            raise OverflowError("it overflowed when it was computed")
        hyper = Hypergradient(
            torch.tensor(found.values[0], dtype=torch.float64),
            _split(found.gradient, _learned(hparams)),
            found.charge,
            None if math.isnan(found.residual) else found.residual,
        )
        if self._left or self._log.snapshot.rollout is None:
            return hyper, Rollout(None, found.step)
        self._last = self._restored(found.step)
        return hyper, self._last

    def _restored(self, step: int) -> Rollout:
        """Where training stands at the end of the log."""
        snapshot = self._log.snapshot
        self._log.snapshot = snapshot._replace(rollout=None, carry=None)
        try:
            state = unflatten(snapshot.rollout or [], self._structure)
            structure = spec_of(snapshot.structure, self._structure)
            return Rollout(state, step, unflatten(snapshot.carry or [], structure))
        except LookupError as error:
            self._discard(f"the log has a class that is not known here: {error}")
        except Exception as error:  # of any kind, where another has written it
            self._discard(f"the log's states are none of this run: {error}")

    def _next(self, asked: int) -> LogRecord:
        """The next evaluation on the log, which must be the one that is asked for."""
        try:
            found = next(self._records)
        except (OSError, EOFError) as error:
            self._discard(f"the log cannot be read any more: {error}")
        self._left -= 1
        if found.asked != asked:
            self._discard("the descent asks for something else than its log holds")
        self._stopwatch.freeze(found.seconds)
        return found

    def _about_to_compute(self, rollout: Rollout | None) -> None:
        """Save what there is, now and then: here all that it needs is known."""
        if rollout is not None and rollout.state is None:
            self._discard("the descent needs a state that its log does not have")
        self._stopwatch.resume()
        if self._log.due:
            self._save(rollout if rollout is self._last else None)

    def _save(self, rollout: Rollout | None) -> None:
        best = self._log.snapshot.best
        if self._best is not None:
            best = tree_leaves(self._best)
        self._log.save(best, rollout)

    def _write(
        self, asked: int, step: int, values: Sequence[float], **more: Any
    ) -> None:
        seconds = self._stopwatch.seconds
        self._log.write(LogRecord(asked, seconds, step, values, **more))

    def _discard(self, reason: str) -> NoReturn:
        self._log.discard()
        raise ReplayMismatch(reason)


def signature_of(
    run: TrialSpec, evidence: Mapping[str, str], task: Task, method: Method
) -> str:
    """What evaluations of a trial depend on besides λ.

    Args:
        run: the trial.
        evidence: digests of what it trains on, see `Fingerprint`.
        task: whose code counts.
        method: likewise.
    """
    own = code_of(task, method).values()
    parts = [package(), torch.__version__, repr(run), *sorted(evidence.values()), *own]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@functools.cache
def package() -> str:
    """The digest of raymeta's own source."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[2].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _checksum(hparams: Hparams, kind: str, begin: int, steps: int) -> int:
    """Of what is asked for: λ to the last bit."""
    flat = _flat(v for v in hparams.values() if isinstance(v, Tensor))
    return zlib.crc32(flat.tobytes(), zlib.crc32(f"{kind} {begin} {steps}".encode()))


def _learned(hparams: Hparams) -> Tensors:
    return {name: value for name, value in hparams.items() if is_differentiable(value)}


def _flat(tensors: Iterable[Tensor]) -> np.ndarray:
    """All elements in order, in double precision, which holds each one exactly."""
    flat = [tensor.detach().reshape(-1).double().cpu().numpy() for tensor in tensors]
    return np.concatenate([np.empty(0), *flat])


def _split(flat: np.ndarray, like: Tensors) -> Tensors:
    """What `_flat` has joined."""
    sizes = [value.numel() for value in like.values()]
    parts = torch.from_numpy(flat).split(sizes)
    return {
        name: part.reshape(value.shape)
        for (name, value), part in zip(like.items(), parts, strict=True)
    }
