"""Trees of tensors as files of torch, read back without running anything in them.

A file holds tensors, numbers, words and plain containers of them alone, which
`torch.load(path, weights_only=True)` reads. A tree with classes of its own (named
tuples, say) is kept as its leaves and, in JSON, its structure; who reads it looks up
the classes by name among those that it knows already.
"""

import json
import struct
import sys
import zlib
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from raymeta._tree import Spec, flatten, is_container
from raymeta.results.atomic import atomic_write
from raymeta.results.integrity import (
    CHECKSUM,
    EMPTY,
    OTHER,
    SEAL,
    ZEROS,
    DamagedFile,
    newer,
)
from raymeta.results.schema import KEY

_SCALARS = (bool, int, float, str, type(None))
#: How a zip archive without a comment ends: a signature, and 18 bytes on.
_END, _END_BYTES = b"PK\x05\x06", 22
#: At most, of any version.
_SEAL_BYTES = 64
_CHUNK_BYTES = 1 << 16


def save_tensors(path: Path, tree: Any, *, sync: bool = False) -> None:
    """Write a tree of tensors, numbers and words in plain containers.

    Args:
        path: the file.
        tree: dictionaries, lists and tuples of tensors and scalars.
        sync: see `atomic_write`.

    Raises:
        ValueError: the tree holds something else, which could not be read back.
        OSError: the disk refuses.
    """
    for leaf in _leaves(tree):
        if not isinstance(leaf, Tensor) and type(leaf) not in _SCALARS:
            raise ValueError(
                "a file of tensors holds tensors, numbers, words and plain containers, "
                f"but got {type(leaf).__name__}: save what it consists of"
            )
    with atomic_write(path, sync=sync) as file:
        torch.save(tree, file)
        _seal(file)


def load_tensors(path: Path, device: str | None = None, remedy: str = OTHER) -> Any:
    """Read a tree of tensors; nothing in it is run.

    Args:
        path: the file.
        device: where the tensors go; by default each to where it was.
        remedy: what to do about a damaged one.

    Raises:
        DamagedFile: it cannot be read, is not as it was written, or holds something
            else.
    """
    try:
        with path.open("rb") as file:
            if reason := _wrong(file):
                raise DamagedFile(path, reason, remedy)
            file.seek(0)
            return torch.load(file, map_location=device, weights_only=True)
    except DamagedFile:
        raise
    except OSError as error:
        reason = f"reading it fails ({error.strerror})"
        raise DamagedFile(path, reason, remedy) from None
    except Exception:  # of any kind, from a file of any kind
        raise DamagedFile(path, "it holds no tree of tensors", remedy) from None


def _seal(file: IO[bytes]) -> None:
    """Give a zip archive, which is open, a comment with its checksum."""
    file.seek(-2, 2)
    file.write(struct.pack("<H", len(SEAL)) + SEAL)
    place = file.tell() - len(SEAL) + SEAL.index(EMPTY) + EMPTY.index(ZEROS)
    checksum = _checksum(file, place)
    file.seek(place)
    file.write(b"%08x" % checksum)


def _wrong(file: IO[bytes]) -> str:
    """What is wrong with a file of tensors; "" where nothing is."""
    length = file.seek(0, 2)
    if not length:
        return "it is empty"
    file.seek(max(0, length - _END_BYTES))
    if file.read(4) == _END:
        return ""  # of a version before there were checksums
    file.seek(max(0, length - _SEAL_BYTES))
    end = file.read()
    try:
        seal = json.loads(end[end.rindex(b"{") :])
        version, digits = seal[KEY], seal[CHECKSUM]
        place = length - len(end) + end.rindex(digits.encode())
        if reason := newer(version):
            return reason
        whole = f"{_checksum(file, place):08x}" == digits
    except (ValueError, LookupError, TypeError, AttributeError):
        whole = False
    return "" if whole else "it is cut short, altered, or no file of raymeta"


def _checksum(file: IO[bytes], place: int) -> int:
    """CRC-32 of a file, with zeros for the eight digits at a place."""
    checksum = 0
    file.seek(0)
    while chunk := file.read(min(_CHUNK_BYTES, place - file.tell())):
        checksum = zlib.crc32(chunk, checksum)
    checksum = zlib.crc32(ZEROS, checksum)
    file.seek(place + len(ZEROS))
    while chunk := file.read(_CHUNK_BYTES):
        checksum = zlib.crc32(chunk, checksum)
    return checksum


def _leaves(tree: Any) -> Iterator[Any]:
    if type(tree) in (dict, OrderedDict):
        for name, part in tree.items():
            yield name
            yield from _leaves(part)
    elif type(tree) in (list, tuple):
        for part in tree:
            yield from _leaves(part)
    else:
        yield tree


def structure_of(tree: Any, known: Spec = None) -> str:
    """The structure of a tree in JSON: its containers without its leaves.

    Args:
        tree: any tree.
        known: what `spec_of` will be given as such.

    Raises:
        ValueError: the structure cannot be read back.
    """
    spec = flatten(tree)[1]
    try:
        written = json.dumps(_described(spec))
        same = spec_of(written, known) == spec
    except (TypeError, LookupError):
        same = False
    if not same:
        raise ValueError(
            "a structure that is kept has containers that JSON can describe, of "
            "classes that a module has by their name, but got "
            f"{type(tree).__name__}: carry plain containers"
        )
    return written


def spec_of(structure: str, known: Spec = None) -> Spec:
    """What `unflatten` takes for a tree of this structure.

    Args:
        structure: what `structure_of` gave, in JSON.
        known: the structure of a tree whose classes are found though no module has
            them, such as those that were sent to this process.

    Raises:
        LookupError: it has a class that is not known here.
    """
    return _restored(json.loads(structure), dict(_classes(known)))


def _described(spec: Spec) -> Any:
    if spec is None:
        return None
    kind, context, parts = spec
    below = [_described(part) for part in parts]
    if kind is namedtuple:
        return ["namedtuple", _name(context), below]
    return [_name(kind), context, below]


def _restored(described: Any, classes: dict[str, type]) -> Spec:
    if described is None:
        return None
    name, context, below = described
    parts = [_restored(part, classes) for part in below]
    if name != "namedtuple":
        return _class(name, classes), context, parts
    cls: Any = _class(context, classes)
    if len(cls._fields) != len(parts):
        raise LookupError(context)
    return namedtuple, cls, parts


def _name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _class(name: str, classes: dict[str, type]) -> type:
    """A class of containers that is known already.

    Nothing is imported because a file says so, and nothing is called but what puts a
    container together: a file may name any class, and what it is to be given.
    """
    if name in classes:
        return classes[name]
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    if not isinstance(found, type) or not is_container(found):
        raise LookupError(name)
    return found


def _classes(spec: Spec) -> Iterator[tuple[str, type]]:
    if spec is not None:
        kind, context, parts = spec
        cls = context if kind is namedtuple else kind
        yield _name(cls), cls
        for part in parts:
            yield from _classes(part)
