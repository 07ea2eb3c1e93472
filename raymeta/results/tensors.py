"""Trees of tensors as files of torch, read back without running anything in them.

A file holds tensors, numbers, words and plain containers of them alone, which
`torch.load(path, weights_only=True)` reads. A tree with classes of its own (named
tuples, say) is kept as its leaves and, in JSON, its structure; who reads it looks up
the classes by name among those that it knows already.
"""

import json
import sys
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raymeta._tree import Spec, flatten
from raymeta.results.atomic import atomic_write

_SCALARS = (bool, int, float, str, type(None))


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


def load_tensors(path: Path, device: str | None = None) -> Any:
    """Read a tree of tensors; nothing in it is run.

    Args:
        path: the file.
        device: where the tensors go; by default each to where it was.

    Raises:
        Exception: of any kind, where the file is torn or holds something else.
    """
    return torch.load(path, map_location=device, weights_only=True)


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
    if name == "namedtuple":
        return namedtuple, _class(context, classes), parts
    return _class(name, classes), context, parts


def _name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _class(name: str, classes: dict[str, type]) -> type:
    """A class that is known already: nothing is imported because a file says so."""
    if name in classes:
        return classes[name]
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise LookupError(name)
    return found


def _classes(spec: Spec) -> Iterator[tuple[str, type]]:
    if spec is not None:
        kind, context, parts = spec
        cls = context if kind is namedtuple else kind
        yield _name(cls), cls
        for part in parts:
            yield from _classes(part)
