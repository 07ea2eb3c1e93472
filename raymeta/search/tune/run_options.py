"""Options of a comparison's Tune run: callbacks, stoppers, resources, what is kept."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from ray.tune import Callback, PlacementGroupFactory, Stopper
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback
from ray.tune.stopper import FunctionStopper, NoopStopper

from raymeta.errors import one_line, said, unknown_name
from raymeta.results.same_training import unqualified
from raymeta.runtime.cluster import require_possible
from raymeta.space.choice import without_addresses

#: What Tune takes as `stop`: thresholds by name of a metric, a function, a stopper.
Stop = Mapping[str, float] | Callable[[str, dict[str, Any]], bool] | Stopper | None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the user of a comparison decides about Tune's part of it.

    Attributes:
        callbacks: hear of every trial and result.
        stop: ends trials, or all of it.
        resources: what each trial holds, all its workers together.
        workers: how many compute a trial together.
        keep: whether Tune's experiment stays in the folder.
        stops: what was given as `stop`, in words.
    """

    callbacks: Sequence[Callback] = ()
    stop: Stopper = field(default_factory=NoopStopper)
    resources: Mapping[str, float]
    workers: int = 1
    keep: bool = False
    stops: str = "None"

    @property
    def bundle(self) -> dict[str, float]:
        """What each worker of a trial holds."""
        return {name: value / self.workers for name, value in self.resources.items()}

    @property
    def placement(self) -> PlacementGroupFactory:
        """The bundles of a trial, of which Tune's own worker has the first."""
        return PlacementGroupFactory([self.bundle] * self.workers)

    def require_room(self, *, growing: bool) -> None:
        """Raise ValueError where the cluster never has room for one trial.

        Args:
            growing: whether nodes may join.
        """
        what = "trials" if self.workers == 1 else "workers of a trial"
        require_possible(self.bundle, self.workers, what, growing=growing)

    def guarded(self) -> list[Callback]:
        """The callbacks, and loggers of what is kept, so that none ends all of it."""
        kept = [JsonLoggerCallback(), CSVLoggerCallback()] if self.keep else []
        return [Guarded(each) for each in (*kept, *self.callbacks)]


def run_options(
    callbacks: Sequence[Callback] | None,
    stop: Stop,
    resources_per_trial: Mapping[str, float] | None,
    gpus_per_trial: float,
    keep_tune: bool,
    workers: int = 1,
) -> RunOptions:
    """The options, checked.

    Raises:
        ValueError: a callback, a stopper or resources that are none; GPUs twice, or
            not as many for each worker.
    """
    if gpus_per_trial < 0 or (gpus_per_trial > 1 and gpus_per_trial % 1):
        raise ValueError(
            "gpus_per_trial must be a share of one GPU or a whole number of them, but "
            f"got {gpus_per_trial}"
        )
    each = _resources(resources_per_trial, workers)
    if gpus_per_trial and "GPU" in each:
        raise ValueError(
            f"a trial's GPUs are said once, but got gpus_per_trial={gpus_per_trial:g} "
            f"and resources_per_trial={said(each)}: leave one out"
        )
    if gpus_per_trial:
        each["GPU"] = gpus_per_trial
    if workers > 1 and each.get("GPU", 0) % workers:
        raise ValueError(
            f"every worker of a trial gets as many GPUs, but got {each['GPU']:g} for "
            f"workers_per_trial={workers}: give 0 or a multiple of {workers}"
        )
    callbacks = list(callbacks or ())
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ValueError(
                "callbacks must be objects of ray.tune.Callback, but got "
                f"{said(callback)}"
            )
    return RunOptions(
        callbacks=callbacks,
        stop=_stopper(stop),
        resources=each,
        workers=workers,
        keep=keep_tune,
        stops=unqualified(without_addresses(repr(stop))),
    )


def _resources(given: Mapping[str, float] | None, workers: int) -> dict[str, float]:
    each = {"CPU": float(workers), **({} if given is None else given)}
    for name, value in each.items():
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not isinstance(name, str) or not number or not 0 <= value < math.inf:
            raise ValueError(
                "resources_per_trial must be numbers by name, like {'CPU': 2}, but "
                f"got {said(given)}"
            )
    if not any(each.values()):
        raise ValueError(
            f"each trial must hold something, but got resources_per_trial={given}"
        )
    return each


def _stopper(stop: Stop) -> Stopper:
    if stop is None:
        return NoopStopper()
    if isinstance(stop, Stopper):
        return stop
    if isinstance(stop, Mapping):
        return FunctionStopper(_Limits(stop))
    if callable(stop):
        return FunctionStopper(stop)
    raise ValueError(
        "stop must be a dictionary of thresholds, a function of a trial's id and "
        f"result, or a ray.tune.Stopper, but got {said(stop)}"
    )


class _Limits:
    """Whether a metric has come as far as its threshold, as Tune reads dictionaries."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        self._limits = dict(limits)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        for name in self._limits:
            if name not in result:
                raise unknown_name("metric of stop", name, result)
        return any(result[name] >= limit for name, limit in self._limits.items())


class Guarded(Callback):
    """A callback whose errors are warned of, once, and end nothing."""

    HOOKS = (
        *("setup", "on_step_begin", "on_step_end", "on_trial_start", "on_checkpoint"),
        *("on_trial_restore", "on_trial_save", "on_trial_result", "on_trial_complete"),
        *("on_trial_recover", "on_trial_error", "on_experiment_end"),
    )

    def __init__(self, callback: Callback) -> None:
        self._callback, self._warned = callback, False
        for hook in self.HOOKS:
            setattr(self, hook, self._guarded(getattr(callback, hook)))

    def __getstate__(self) -> dict[str, Any]:
        return {}  # a comparison continues by its journal

    def _guarded(self, hook: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any, **info: Any) -> None:
            try:
                hook(*args, **info)
            except Exception as error:
                if not self._warned:
                    warnings.warn(
                        f"callback {type(self._callback).__name__} raises "
                        f"{one_line(error)}: the comparison goes on",
                        stacklevel=2,
                    )
                self._warned = True

        return call
