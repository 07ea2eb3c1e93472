"""Functional modules: pure functions of a module's tensors."""

import inspect
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raymeta._tree import cloned, tree_map
from raymeta.autograd.stop_gradient import innermost
from raymeta.modules.copies import copied
from raymeta.modules.counter_rng import Noise, mix
from raymeta.modules.overrides.internals import ATTRIBUTES
from raymeta.modules.overrides.modes import Inspection, Substitutes
from raymeta.modules.rng_state import host_number, restored, seed_all, states
from raymeta.types import Tensors

Run = Callable[[Noise, tuple], Any]


class Needs(NamedTuple):
    """What a module must run within.

    Attributes:
        substitutes: rules for functions that cannot be used as they are.
        generator: the global generators of torch, Python and numpy, seeded by
            (seed, t), for what draws from them without a rule. Such a step cannot be
            traced.
        kept: names of layers that keep something of their last call (an attention
            map, a table). It is dropped after each call.
        copies: whether it gets copies of the inputs, into which it writes.
    """

    substitutes: bool
    generator: bool
    kept: frozenset[str] = frozenset()
    copies: bool = False


class Network:
    """A module as a pure function of its tensors.

    What `torch.func.functional_call` does, without walking over the module at every
    call, and within what the module needs.

    Args:
        module: its tensors are replaced for the time of a call; nothing else of it is
            touched.
        written: names of buffers that the module may write into.
        device: where it computes.
        autocast: dtype of matrix products and convolutions; outputs are float32 again.
    """

    def __init__(
        self,
        module: nn.Module,
        written: set[str],
        device: torch.device,
        autocast: torch.dtype | None,
    ) -> None:
        self.module = module
        self._written, self._device, self._autocast = written, device, autocast
        homes: dict[int, list[tuple[dict, str]]] = defaultdict(list)
        for layer in module.modules():
            for home in (layer._parameters, layer._buffers):
                for key, tensor in home.items():
                    homes[id(tensor)].append((home, key))
        named = chain(module.named_parameters(), module.named_buffers())
        # Tied tensors have one name and several places.
        self._places = {name: homes[id(tensor)] for name, tensor in named}
        # RNNs keep a list of their weights beside them.
        layers = module.modules()
        self._recurrent = [vars(rnn) for rnn in layers if isinstance(rnn, nn.RNNBase)]
        self._kept: list[dict[str, Any]] = []
        self._rules = partial(Substitutes, mixed=autocast is not None)
        self._run: Run = caller(module)
        if autocast is not None:
            self._run = _autocast(self._run, device, autocast)

    def __call__(
        self, values: Tensors, buffers: Tensors, inputs: tuple, noise: Noise
    ) -> tuple[Any, Tensors]:
        """Outputs, and the buffers as the module leaves them.

        Args:
            values: parameters, and buffers that stay, by name; the module's own where
                there is none.
            buffers: buffers that may change, by name.
            inputs: what the module is called with.
            noise: randomness inside it.
        """
        given = values | {
            name: tensor.clone() if name in self._written else tensor
            for name, tensor in buffers.items()
        }
        if (inner := innermost()) is not None:
            inner.written = [given[name] for name in buffers if name in self._written]
        kept = [(home, _contents(home)) for home in self._kept]
        own = [(home, key, home[key]) for home in self._recurrent for key in _WEIGHTS]
        try:
            for name, tensor in given.items():
                for home, key in self._places[name]:
                    own.append((home, key, home[key]))
                    home[key] = tensor
            outputs = self._run(noise, inputs)
            return outputs, {name: self._now(name) for name in buffers}
        finally:
            for home, key, tensor in own:
                home[key] = tensor
            for home, contents in kept:
                _restore(home, contents)

    def copy(self) -> "Network":
        """The same of a copy of the module, with the same tensors, within nothing."""
        tensors = chain(self.module.parameters(), self.module.buffers())
        module = copied(self.module, ((tensor, tensor) for tensor in tensors))
        return Network(module, self._written, self._device, self._autocast)

    def find_needs(
        self, values: Tensors, buffers: Tensors, inputs: tuple, noise: Noise
    ) -> Needs:
        """What a call needs, by one without; the arguments are those of a call."""
        rules, operators = self._rules(noise), Inspection()
        with torch.enable_grad(), _seeded(noise), rules, operators:
            before = states()[:-1]
            self(values, buffers, inputs, noise)
            host = states()[:-1] != before
        # What numbers of the host decide may call what this call did not.
        return Needs(rules.used or host, operators.random or host)

    def provide(self, needs: Needs) -> None:
        """Run within what is needed from now on."""
        for name, layer in self.module.named_modules():
            if name in needs.kept:
                self._kept += [vars(layer), layer._buffers]
        if needs.copies:
            self._run = _of_copies(self._run)
        if needs.substitutes:
            self._run = _within(self._rules, self._run)
        if needs.generator:
            self._run = _within(_seeded, self._run)

    def _now(self, name: str) -> Tensor:
        home, key = self._places[name][0]
        return home[key]


def caller(module: nn.Module) -> Run:
    """What calls a module with the inputs of a batch.

    An only input that is a dictionary goes in by name, if the module takes names of its
    keys and needs no others: those that it takes. Else it is given the dictionary.
    """
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # functions in C have none
        return lambda noise, inputs: module(*inputs)
    named = {p.name: p for p in parameters if p.kind in _BY_NAME}
    needed = {name for name, p in named.items() if p.default is p.empty}
    needed |= {p.name for p in parameters if p.kind is p.POSITIONAL_ONLY}
    others = any(p.kind is p.VAR_KEYWORD for p in parameters)

    def call(noise: Noise, inputs: tuple) -> Any:
        if len(inputs) == 1 and isinstance(inputs[0], dict):
            keys = {key for key in inputs[0] if isinstance(key, str)}
            taken = keys if others else keys & set(named)
            if taken and needed <= taken:
                return module(**{key: inputs[0][key] for key in taken})
        return module(*inputs)

    return call


_BY_NAME = (
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)

#: The list, and the references by which an RNN tells that it is out of date: each alone
#: would have the next call with the same tensors run with the module's own.
_WEIGHTS = ("_flat_weights", "_flat_weight_refs")


def _within(context: Callable[[Noise], Any], run: Run) -> Run:
    def within(noise: Noise, inputs: tuple) -> Any:
        with context(noise):
            return run(noise, inputs)

    return within


def _of_copies(run: Run) -> Run:
    return lambda noise, inputs: run(noise, cloned(inputs))


#: As many entries as there are `full_precision` around us, on any thread: what is
#: evaluated again in a backward pass may be on one of autograd's.
_wide: list[None] = []


@contextmanager
def full_precision() -> Iterator[None]:
    """Modules run without the autocast that they were given.

    Steps that were traced before keep it: take a problem that was not traced yet.
    """
    _wide.append(None)
    try:
        yield
    finally:
        _wide.pop()


def _autocast(run: Run, device: torch.device, dtype: torch.dtype) -> Run:
    def widen(x: Any) -> Any:
        return x.float() if isinstance(x, Tensor) and x.dtype == dtype else x

    def autocast(noise: Noise, inputs: tuple) -> Any:
        if _wide:
            return run(noise, inputs)
        # A cast weight kept from one transform would be a stranger in the next.
        with torch.autocast(device.type, dtype, cache_enabled=False):
            outputs = run(noise, inputs)
        return tree_map(widen, outputs)

    return autocast


def _contents(home: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Containers of a layer's plain attributes, itself first, and what is in them."""
    found: list[tuple[Any, Any]] = [(home, dict(home))]
    queue = [value for key, value in home.items() if key not in ATTRIBUTES]
    while queue:
        value = queue.pop()
        if isinstance(value, list | dict | set | deque):
            found.append((value, value.copy()))
            queue += value.values() if isinstance(value, dict) else value
    return found


def _restore(home: dict[str, Any], contents: list[tuple[Any, Any]]) -> None:
    """Give containers back what was in them."""
    for container, before in contents:
        container.clear()
        ordered = isinstance(container, list | deque)
        (container.extend if ordered else container.update)(before)


@contextmanager
def _seeded(noise: Noise) -> Iterator[None]:
    """Seed the global generators by (seed, t) and give them back as they were."""
    device = noise.t.device
    with restored(device):
        seed_all(mix(noise.seed, host_number(noise.t)), device)
        yield
