"""States that are kept by step: in memory, or in files."""

import tempfile
import zlib
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raymeta._tree import flatten, tree_leaves, unflatten
from raymeta.results.atomic import atomic_write
from raymeta.types import State

Kept = MutableMapping[int, State]
#: Of their files.
SUFFIX = ".state"
CHECKSUM_BYTES = 4


class Form(NamedTuple):
    """What a tensor was among the leaves of a state.

    Attributes:
        shape: its shape.
        dtype: its type.
        device: where it was.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


class SpilledStates(MutableMapping[int, State]):
    """States by step, the tensors of each in a file.

    Ordinary tensors are their bytes one after the other and a CRC-32, several times as
    fast as an archive of torch, which any others are in.

    Args:
        folder: of the files; those that are there already are of these states.
        like: a state; all others are like it but for the values of their tensors.
    """

    def __init__(self, folder: Path, like: State) -> None:
        self._folder = folder
        # What is no tensor stays in memory.
        self._rest: dict[int, tuple[list[Any], Any]] = {}
        self._ordinary = all(map(_is_ordinary, _tensors(like)))
        for path in folder.glob(f"*{SUFFIX}"):
            self._rest[int(path.stem)] = _without_tensors(like)

    def __setitem__(self, step: int, state: State) -> None:
        if self._ordinary:
            _write(_tensors(state), self._path(step))
        else:  # Copies: of a view, the whole that it is part of would be written.
            save([x.detach().clone() for x in _tensors(state)], self._path(step))
        self._rest[step] = _without_tensors(state)

    def __getitem__(self, step: int) -> State:
        leaves, spec = self._rest[step]
        forms, path = [x for x in leaves if isinstance(x, Form)], self._path(step)
        if self._ordinary:
            tensors = iter(_read(path, forms))
        else:
            tensors = iter(torch.load(path, weights_only=True))
        return unflatten(
            [next(tensors) if isinstance(x, Form) else x for x in leaves], spec
        )

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


def _write(tensors: list[Tensor], path: Path) -> None:
    content = b"".join(map(_bytes, tensors))
    try:
        with atomic_write(path) as file:
            file.write(content)
            file.write(zlib.crc32(content).to_bytes(CHECKSUM_BYTES))
    except OSError as error:
        raise _unwritten(path.parent, error) from error


def _read(path: Path, forms: list[Form]) -> Iterator[Tensor]:
    content = bytearray(path.read_bytes())
    sizes = [form.shape.numel() * form.dtype.itemsize for form in forms]
    end = len(content) - CHECKSUM_BYTES
    checksum = zlib.crc32(memoryview(content)[: max(end, 0)])
    if end != sum(sizes) or checksum != int.from_bytes(content[end:]):
        raise ValueError(
            f"a state that Checkpointed has spilled into {str(path)!r} is damaged: "
            f"remove {str(path.parent)!r}, and the estimate begins anew"
        )
    parts = torch.frombuffer(content, dtype=torch.uint8)[:end].split(sizes)
    for part, (shape, dtype, device) in zip(parts, forms, strict=True):
        # A copy begins where its type can.
        yield part.clone().view(dtype).reshape(shape).to(device)


def _bytes(x: Tensor) -> bytes:
    flat = x.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _is_ordinary(x: Tensor) -> bool:
    plain = type(x) in (Tensor, nn.Parameter) and x.layout == torch.strided
    return plain and not x.is_quantized and x.device.type != "meta"


def _tensors(state: State) -> list[Tensor]:
    return [x for x in tree_leaves(state) if isinstance(x, Tensor)]


def _without_tensors(state: State) -> tuple[list[Any], Any]:
    leaves, spec = flatten(state)
    forms = [
        Form(x.shape, x.dtype, x.device) if isinstance(x, Tensor) else x for x in leaves
    ]
    return forms, spec


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
