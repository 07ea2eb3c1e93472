"""Memory as numbers that do not depend on the machine."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raymeta._tree import tree_leaves
from raymeta.hypergrad import Estimator
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams


class _Storages(TorchDispatchMode):
    """Sums the bytes of the storages that operations made and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, storage.nbytes())

    def _drop(self, size: int) -> None:
        self.live -= size


def peak_bytes(function: Callable[[], object]) -> int:
    """The most bytes of tensors made in a call that were alive at one time."""
    with _Storages() as storages:
        function()
    return storages.peak


def assert_flat(
    estimator: Estimator, problem: BilevelProblem, hparams: Hparams
) -> None:
    """Two hundred outer steps leave no tensor behind, without the cycle collector.

    Neither one that Python sees, nor one that only autograd's graphs may hold.
    """
    rollout = estimator.init(problem, hparams)

    def outer_steps(count: int) -> None:
        nonlocal hparams, rollout
        for _ in range(count):
            result, rollout = estimator.estimate(problem, hparams, rollout)
            moved = {k: hparams[k] - 1e-9 * grad for k, grad in result.grads.items()}
            hparams = {**hparams, **moved}

    gc.collect()
    gc.disable()
    try:
        outer_steps(10)
        before = _live_tensors()
        outer_steps(200)
        assert _live_tensors() == before
        with _Storages() as storages:
            outer_steps(20)
            held = storages.live
            outer_steps(50)
            # Not one number a step; the first ones under a mode keep some, once.
            assert storages.live < held + 50 * 8
    finally:
        gc.enable()


def _live_tensors() -> int:
    # By type: isinstance would wake what is lazy.
    return sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())
