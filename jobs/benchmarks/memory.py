"""Peak memory in tensor bytes: exact and repeatable, unlike a process's."""

import gc
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from torch import Tensor, UntypedStorage
from torch.autograd.profiler import profile

from raymeta.compile.dispatch import TorchDispatchMode

# The profiler prints two lines each time it runs.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of tensor storages that are allocated in a block and alive.

    Works below autograd and `torch.func`, so what they save and carry is counted, each
    storage once however many views it has. Not seen: storages from before the block,
    what one operator allocates and frees inside itself, and what compiled code
    allocates (see `peak_allocated`).

    Attributes:
        live: bytes alive now.
        peak: the largest `live` so far.

    Example:
        >>> with PeakMemory() as memory:
        ...     x = torch.ones(1000).double()
        >>> memory.peak, memory.live
        (12000, 8000)
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        # Address of the C++ storage -> a reference that dies with it (not with the
        # Python object around it: saved tensors and views keep it alive).
        self._alive: dict[int, weakref.ref[UntypedStorage]] = {}

    def __enter__(self) -> Self:
        """Collect the garbage of others, so that it is not freed in our block."""
        gc.collect()
        super().__enter__()
        return self

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operator and count what it returns."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for storage in _storages((result,)):
            if storage._cdata not in self._alive:
                given = {s._cdata for s in _storages((*args, *kwargs.values()))}
                # A view of something that we never saw: it is from before the block.
                old = storage._cdata in given
                self._watch(storage, 0 if old else storage.nbytes())
        return result

    def _watch(self, storage: UntypedStorage, size: int) -> None:
        key = storage._cdata

        def forget(_: object) -> None:
            del self._alive[key]
            self.live -= size

        self._alive[key] = weakref.ref(storage, forget)
        self.live += size
        self.peak = max(self.peak, self.live)


def peak_bytes(function: Callable[[], object]) -> int:
    """The most bytes of new tensors that a call holds at once."""
    with PeakMemory() as memory:
        function()
    return memory.peak


def peak_allocated(function: Callable[[], object]) -> int:
    """The most bytes that a call has from torch's allocator at once, compiled or not.

    Sees what `peak_bytes` does not, but notes down every operator, which for long runs
    of eager ones takes gigabytes. Else both count the same bytes.
    """
    gc.collect()
    with profile(use_cpu=True, profile_memory=True) as profiler:
        function()
    assert profiler.kineto_results is not None
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def _storages(values: Any) -> Iterator[UntypedStorage]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _storages(value)
        elif isinstance(value, Tensor) and not _without_memory(value):
            yield value.untyped_storage()


def _without_memory(tensor: Tensor) -> bool:
    # Shapes only; and the tangents that forward mode knows to be 0.
    return tensor.is_meta or tensor._is_zerotensor()
