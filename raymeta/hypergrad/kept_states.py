"""States that are kept by step: in memory, or in files."""

import os
import struct
import tempfile
import zlib
from collections.abc import Iterator, MutableMapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raymeta._tree import flatten, tree_leaves, unflatten
from raymeta.results.atomic import atomic_write
from raymeta.types import State

Kept = MutableMapping[int, State]
#: Of the file with states of ordinary tensors, and of those with others.
SLOTS, SUFFIX = "slots", ".state"
#: Before the tensors of a state: its step, -1 for none, and a CRC-32 of it and of them.
HEADER = struct.Struct("<qI")
FREE = -1


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
    """States by step, whose tensors are in files.

    Those of ordinary tensors are one after the other in one file, several times as fast
    as an archive of torch for each, in which any others are.

    Args:
        folder: of the files; states that are there already are of these.
        like: a state; all others are like it but for the values of their tensors.
    """

    def __init__(self, folder: Path, like: State) -> None:
        self._folder = folder
        forms = [form for form in _without_tensors(like)[0] if isinstance(form, Form)]
        self._slots = Slots(folder / SLOTS, sum(map(_size, forms)))
        archives = [int(path.stem) for path in folder.glob(f"*{SUFFIX}")]
        # What is no tensor stays in memory.
        self._rest: dict[int, tuple[list[Any], Any]] = {
            step: _without_tensors(like) for step in [*self._slots.places, *archives]
        }

    def __setitem__(self, step: int, state: State) -> None:
        tensors = [x for x in tree_leaves(state) if isinstance(x, Tensor)]
        rest = _without_tensors(state)
        size = sum(_size(form) for form in rest[0] if isinstance(form, Form))
        if size == self._slots.size and all(map(_is_ordinary, tensors)):
            archived = step in self._rest and step not in self._slots.places
            self._slots.write(step, b"".join(map(_bytes, tensors)))
            if archived:
                self._archive(step).unlink()
        else:  # Copies: of a view, the whole that it is part of would be written.
            save([x.detach().clone() for x in tensors], self._archive(step))
            if step in self._slots.places:
                self._slots.free(step)
        self._rest[step] = rest

    def __getitem__(self, step: int) -> State:
        leaves, spec = self._rest[step]
        if step in self._slots.places:
            forms = [x for x in leaves if isinstance(x, Form)]
            tensors = _parts(self._slots.read(step), forms)
        else:
            tensors = iter(torch.load(self._archive(step), weights_only=True))
        return unflatten(
            [next(tensors) if isinstance(x, Form) else x for x in leaves], spec
        )

    def __delitem__(self, step: int) -> None:
        del self._rest[step]
        if step in self._slots.places:
            self._slots.free(step)
        else:
            self._archive(step).unlink()

    def __iter__(self) -> Iterator[int]:
        return iter(self._rest)

    def __len__(self) -> int:
        return len(self._rest)

    def close(self) -> None:
        """Close the file; states are read no more."""
        self._slots.close()

    def _archive(self, step: int) -> Path:
        return self._folder / f"{step}{SUFFIX}"


class Slots:
    """Contents of one size by step, each in a slot of a file.

    A content that was not wholly written, or is no more as it was, is not there when
    the file is opened again.

    Args:
        path: the file; it is made where there is none.
        size: bytes of a content.

    Attributes:
        size: likewise.
        places: step -> its slot.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path, self.size = path, size
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.places: dict[int, int] = {}
        self._length = -(-os.fstat(self._file).st_size // self._stride)
        self._unused = []
        for place in range(self._length):
            step, content = self._at(place)
            if content is None:
                self._unused.append(place)
            else:
                self.places[step] = place

    @property
    def _stride(self) -> int:
        return HEADER.size + self.size

    def write(self, step: int, content: bytes) -> None:
        """Keep a content, in another slot than the one before it.

        Raises:
            ValueError: the disk is full.
        """
        place = self._unused.pop() if self._unused else self._length
        self._length = max(self._length, place + 1)
        record = HEADER.pack(step, _checksum(step, content)) + content
        left, at = memoryview(record), place * self._stride
        try:
            while left:  # a disk that fills up takes a part, and says why at the next
                written = os.pwrite(self._file, left, at)
                left, at = left[written:], at + written
        except OSError as error:
            self._unused.append(place)
            raise _unwritten(self._path.parent, error) from error
        if step in self.places:
            self.free(step)
        self.places[step] = place

    def read(self, step: int) -> bytearray:
        """The content.

        Raises:
            ValueError: it is no more as it was written.
        """
        found, content = self._at(self.places[step])
        if content is None or found != step:
            raise ValueError(
                f"a state that Checkpointed has spilled into {str(self._path)!r} is "
                f"damaged: remove {str(self._path.parent)!r}, and the estimate begins "
                "anew"
            )
        return content

    def free(self, step: int) -> None:
        """Forget a content; its slot takes another."""
        place = self.places.pop(step)
        os.pwrite(self._file, HEADER.pack(FREE, 0), place * self._stride)
        self._unused.append(place)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _at(self, place: int) -> tuple[int, bytearray | None]:
        """The step and the content of a slot; None where there is none."""
        record = bytearray(os.pread(self._file, self._stride, place * self._stride))
        if len(record) < self._stride:
            return FREE, None
        step, checksum = HEADER.unpack_from(record)
        content = record[HEADER.size :]
        whole = step != FREE and checksum == _checksum(step, content)
        return step, content if whole else None


def _checksum(step: int, content: bytes | bytearray) -> int:
    return zlib.crc32(content, step & 0xFFFFFFFF)


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
    with made as folder, closing(SpilledStates(Path(folder), like)) as kept:
        yield kept


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


def _size(form: Form) -> int:
    return form.shape.numel() * form.dtype.itemsize


def _parts(content: bytearray, forms: list[Form]) -> Iterator[Tensor]:
    whole = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0)
    for part, form in zip(whole.split(list(map(_size, forms))), forms, strict=True):
        # A copy begins where its type can.
        values = part.clone().view(form.dtype) if len(part) else torch.empty(0)
        yield values.to(form.device, form.dtype).reshape(form.shape)


def _bytes(x: Tensor) -> bytes:
    flat = x.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _is_ordinary(x: Tensor) -> bool:
    plain = type(x) in (Tensor, nn.Parameter) and x.layout == torch.strided
    return plain and not x.is_quantized and x.device.type != "meta"


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
