"""Attributes of a module beside parameters and buffers, as values to compare."""

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from raymeta.modules.overrides.internals import (
    ATTRIBUTES,
    buffers,
    forward_hooks,
    sublayers,
)

#: They draw numbers that no seed of a step reaches.
GENERATORS = (
    random.Random,
    torch.Generator,
    np.random.Generator,
    np.random.RandomState,
    np.random.BitGenerator,
)
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_ITERATORS = (itertools.count, itertools.cycle)
#: So many values of a module are compared at most.
_LIMIT = 20_000
#: The layer's name, when its hook runs, and the hook's number.
Hook = tuple[str, str, int]


class Value(NamedTuple):
    """A value somewhere in an attribute.

    Attributes:
        kind: "tensor", "number" (or text, or a length), "generator".
        content: equal if the values are; hashable.
    """

    kind: str
    content: Any


class Place(NamedTuple):
    """Where a value is kept.

    Attributes:
        layer: the name of the layer; None where all copies of the module share it, as
            with a class's attribute, a global, or a variable of a closure.
        attribute: its name, as Class.attribute.
        path: where the value is within the attribute.
    """

    layer: str | None
    attribute: str
    path: str


def attributes(
    module: nn.Module, known: set[str], hooks: set[Hook]
) -> dict[Place, Value]:
    """All plain values that a module keeps, or reads beside itself.

    Args:
        module: any module.
        known: names of buffers that are no such values.
        hooks: the hooks whose variables are such values; see `acting_hooks`.
    """
    return dict(itertools.islice(_places(module, known, hooks, Walk()), _LIMIT))


def acting_hooks(module: nn.Module) -> set[Hook]:
    """The forward hooks that change inputs or outputs, once the module was called.

    Others only look: what they count or log is no part of the module.
    """
    acting: set[Hook] = set()

    def noting(key: Hook, hook: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            result = hook(*args)
            if result is not None:
                acting.add(key)
            return result

        return noted

    for name, layer in module.named_modules():
        for kind, hooks in forward_hooks(layer).items():
            for number, hook in hooks.items():
                hooks[number] = noting((name, kind, number), hook)
    return acting


def kept_tensors(module: nn.Module) -> list[Tensor]:
    """The tensors in all that a module keeps or reads, in the order of its layers."""
    walk = Walk()
    list(_places(module, set(), set(), walk))
    return [x for x in walk.seen.values() if isinstance(x, Tensor)]


def _places(
    module: nn.Module, known: set[str], hooks: set[Hook], walk: "Walk"
) -> Iterator[tuple[Place, Value]]:
    kinds = (FunctionType, *_PLAIN, *_CONTAINERS, *GENERATORS)
    for layer in module.modules():
        walk.seen[id(layer)] = layer  # each by itself
    for name, layer in module.named_modules():
        kind = type(layer).__name__
        for key, value in vars(layer).items():
            if key not in ATTRIBUTES:
                for path, leaf in walk(value):
                    yield Place(name, f"{kind}.{key}", path), leaf
        for key, value in buffers(layer).items():
            if (f"{name}.{key}" if name else key) not in known:
                for path, leaf in walk(value):
                    yield Place(name, f"{kind}.{key}", path), leaf
        for when, given in forward_hooks(layer).items():
            for number, function in given.items():
                if (name, when, number) in hooks:
                    for path, leaf in walk(function):
                        yield Place(None, f"a hook of {kind}", f"{path}"), leaf
        for cls in type(layer).__mro__:
            if cls.__module__.startswith("torch.") or cls is object:
                continue
            for key, value in vars(cls).items():
                if isinstance(value, kinds):
                    for path, leaf in walk(value):
                        yield Place(None, f"{cls.__name__}.{key}", path), leaf


class Walk:
    """The values in anything, each once."""

    def __init__(self) -> None:
        self.seen: dict[int, Any] = {}

    def __call__(self, x: Any, path: str = "") -> Iterator[tuple[str, Value]]:
        """Paths and values."""
        if isinstance(x, (*_PLAIN, torch.dtype, torch.device)):
            yield path, Value("number", repr(x))
            return
        if id(x) in self.seen:
            return
        self.seen[id(x)] = x  # kept, for an id is a living object's
        if isinstance(x, Tensor):
            yield path, Value("tensor", _bytes(x))
        elif isinstance(x, np.ndarray):
            yield path, Value("tensor", (x.shape, x.dtype.str, x.tobytes()))
        elif isinstance(x, GENERATORS):
            yield path, Value("generator", _numbers_to_come(x))
        elif isinstance(x, dict):
            yield f"{path} size", Value("number", len(x))
            for key, value in x.items():
                yield from self(value, f"{path}[{key!r}]")
        elif isinstance(x, list | tuple | deque):
            yield f"{path} size", Value("number", len(x))
            for i, value in enumerate(x):
                yield from self(value, f"{path}[{i}]")
        elif isinstance(x, set | frozenset):
            yield path, Value("number", repr(sorted(map(repr, x))))
        elif isinstance(x, FunctionType):
            yield from self._function(x, path)
        elif isinstance(x, MethodType):
            yield from self(x.__self__, path)
            yield from self(x.__func__, path)
        elif isinstance(x, partial):
            yield from self((x.func, x.args, x.keywords), path)
        elif isinstance(x, nn.Module):  # one that is not registered
            own = {key: v for key, v in vars(x).items() if key not in ATTRIBUTES}
            yield from self((own, buffers(x), sublayers(x)), path)
        elif not isinstance(x, type):
            yield from self._object(x, path)

    def _function(self, x: FunctionType, path: str) -> Iterator[tuple[str, Value]]:
        """Variables of a closure, and globals that hold a state."""
        if x.__module__ and x.__module__.startswith("torch."):
            return
        for name, cell in zip(x.__code__.co_freevars, x.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # empty, as yet
                continue
            yield from self(value, f"{path} {name}")
        yield from self((x.__defaults__, x.__kwdefaults__, vars(x)), path)
        for name in _names(x.__code__):
            value = x.__globals__.get(name)
            ours = isinstance(value, FunctionType) and value.__module__ == x.__module__
            kinds = _PLAIN + _CONTAINERS + GENERATORS + _ITERATORS
            if ours or (value is not None and isinstance(value, kinds)):
                yield from self(value, f"{path} {name}")

    def _object(self, x: Any, path: str) -> Iterator[tuple[str, Value]]:
        """What it is copied by: iterators, instances of classes."""
        try:
            parts = x.__reduce_ex__(4)
        except Exception:  # a handle: it has no values
            return
        if isinstance(parts, tuple):
            _, arguments, *states = parts
            yield from self(arguments, path)
            for state in states:
                content = state if isinstance(state, _PLAIN + _CONTAINERS) else None
                yield from self(content, path)


def _names(code: CodeType) -> set[str]:
    """Globals that a function refers to, functions within it included."""
    inner = [_names(const) for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*inner)


def _numbers_to_come(generator: Any) -> Any:
    """A generator's state."""
    if isinstance(generator, torch.Generator):
        return _bytes(generator.get_state())
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return repr(generator.get_state(legacy=False))
    if isinstance(generator, np.random.Generator):
        generator = generator.bit_generator
    return repr(generator.state)


def _bytes(x: Tensor) -> Any:
    """Shape, dtype and bits."""
    if x.layout != torch.strided or x.is_meta:
        return x.shape, x.dtype
    bits = x.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return x.shape, x.dtype, hash(bits.flatten().view(torch.uint8).numpy().tobytes())
