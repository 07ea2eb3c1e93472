"""A module as a pure function of its tensors."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raymeta.modules.noise import Noise, mix
from raymeta.modules.substitutes import Inspection, Substitutes
from raymeta.tree import tree_map
from raymeta.types import Tensors

Run = Callable[[Noise, tuple], Any]


class Needs(NamedTuple):
    """What a module must run within.

    Attributes:
        substitutes: rules for functions that cannot be used as they are.
        generator: the global generator, seeded by (seed, t), for operators that draw
            from it without a rule. Such a step cannot be traced.
    """

    substitutes: bool
    generator: bool


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
        self._written = written
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
        self._rules = partial(Substitutes, mixed=autocast is not None)
        self._run: Run = lambda noise, inputs: module(*inputs)
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

    def survey(self, buffers: Tensors, inputs: tuple, noise: Noise) -> Needs:
        """What a call needs, by one without."""
        rules, operators = self._rules(noise), Inspection()
        with torch.enable_grad(), _seeded(noise), rules, operators:
            self({}, buffers, inputs, noise)
        return Needs(rules.used, operators.random)

    def provide(self, needs: Needs) -> None:
        """Run within what is needed from now on."""
        if needs.substitutes:
            self._run = _within(self._rules, self._run)
        if needs.generator:
            self._run = _within(_seeded, self._run)

    def _now(self, name: str) -> Tensor:
        home, key = self._places[name][0]
        return home[key]


#: The list, and the references by which an RNN tells that it is out of date: each alone
#: would have the next call with the same tensors run with the module's own.
_WEIGHTS = ("_flat_weights", "_flat_weight_refs")


def _within(context: Callable[[Noise], Any], run: Run) -> Run:
    def within(noise: Noise, inputs: tuple) -> Any:
        with context(noise):
            return run(noise, inputs)

    return within


def _autocast(run: Run, device: torch.device, dtype: torch.dtype) -> Run:
    def widen(x: Any) -> Any:
        return x.float() if isinstance(x, Tensor) and x.dtype == dtype else x

    def autocast(noise: Noise, inputs: tuple) -> Any:
        # A cast weight kept from one transform would be a stranger in the next.
        with torch.autocast(device.type, dtype, cache_enabled=False):
            outputs = run(noise, inputs)
        return tree_map(widen, outputs)

    return autocast


@contextmanager
def _seeded(noise: Noise) -> Iterator[None]:
    """Seed the device's generator by (seed, t) and give it back as it was."""
    # Not torch.manual_seed: it walks the Python stack, which costs more than a step.
    generator = _generator(noise.t.device)
    before = generator.get_state()
    generator.manual_seed(mix(noise.seed, int(noise.t)))
    try:
        yield
    finally:
        generator.set_state(before)


def _generator(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator
