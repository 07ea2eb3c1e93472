"""Purity of a module as a function of its tensors, found out by calling copies.

A step that is done again (by Checkpointed, by a line search, in another process) must
be the same step. So outputs may depend on inputs, weights, buffers and random numbers
of (seed, t), and on nothing that an earlier call left behind.
"""

from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from raymeta._tree import cloned, tree_leaves, tree_map
from raymeta.autograd.stop_gradient import StopGradients
from raymeta.modules.attributes import (
    Hook,
    Place,
    Value,
    Walk,
    acting_hooks,
    attributes,
)
from raymeta.modules.counter_rng import Noise
from raymeta.modules.functional import Needs, Network
from raymeta.modules.overrides.parameter_access import Access
from raymeta.types import Tensors


def find_needs(
    network: Network,
    original: nn.Module,
    buffers: Tensors,
    inputs: tuple,
    noise: Noise,
) -> Needs:
    """What a module needs to be a pure function; copies of it are called.

    Args:
        network: the module; it stays as it is.
        original: what the network's module is a copy of.
        buffers: the buffers that may change, by name.
        inputs: the inputs of a batch.
        noise: the noise of a step; it is not drawn from.

    Returns:
        For `Network.provide`.

    Raises:
        ValueError: calls depend on earlier ones, or on the clock; a call writes into
            parameters, or reads them where values from outside do not reach; gradients
            are not those of the outputs; the module cannot be called.
    """
    try:
        with StopGradients():
            needs, hooks = _inspected(network, original, buffers, inputs, noise)
    except ValueError:
        raise
    except Exception as error:
        raise _uncalled(original, inputs, error) from error
    calls = _Calls(network, needs, hooks, buffers, inputs, noise)
    return needs._replace(kept=calls.kept())


def _inspected(
    network: Network,
    original: nn.Module,
    buffers: Tensors,
    inputs: tuple,
    noise: Noise,
) -> tuple[Needs, set[Hook]]:
    """What one call of a copy needs, and which hooks act; refused as by `Access`."""
    trial = network.copy()
    own = {name: _twin(p) for name, p in trial.module.named_parameters()}
    moving = {name: _twin(b) for name, b in buffers.items()}
    hooks = acting_hooks(trial.module)
    inputs = cloned(inputs)
    with Access(trial.module, original, own, moving, inputs) as access:
        needs = trial.find_needs(own, moving, inputs, copy(noise))
    return needs._replace(copies=access.writes_inputs), hooks


def _twin(x: Tensor) -> Tensor:
    """The same, and no leaf, into which nothing could be written."""
    return x.detach().requires_grad_(x.requires_grad).clone()


def _uncalled(module: nn.Module, inputs: tuple, error: Exception) -> ValueError:
    shapes = ", ".join(
        f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"
        for x in tree_leaves(inputs)
        if isinstance(x, Tensor)
    )
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return ValueError(
        f"{type(module).__name__} cannot be called with the first batch, inputs of "
        f"{shapes}: {reason}"
    )


class _Calls:
    """Two copies of a module, called with two batches in different orders."""

    def __init__(
        self,
        network: Network,
        needs: Needs,
        hooks: set[Hook],
        buffers: Tensors,
        inputs: tuple,
        noise: Noise,
    ) -> None:
        self._network, self._needs = network, needs
        self._buffers, self._noise = buffers, noise
        self._known = {name for name, _ in network.module.named_buffers()}
        self._hooks = hooks
        self._before = self._attributes(network)
        self._kept: set[str] = set()
        calls = self._in_both_orders(inputs)
        (a, b, a_again), (b_first, a_after, b_again) = calls
        self._alike = [(a, a_again, a_after), (b_first, b, b_again)]

    def _in_both_orders(self, inputs: tuple) -> list[list[Any]]:
        """Calls with batches of a few rows, if the module takes such ones."""
        few = tree_map(_first, inputs)
        for first, second in ((few, tree_map(_others, few)), (inputs, inputs)):
            self._inputs = {"a": first, "b": second}
            try:
                return [self._run("aba"), self._run("bab")]
            except Exception as error:
                failed = error
        raise ValueError(
            f"{type(self._network.module).__name__} cannot be called a second time: "
            f"{type(failed).__name__}: {failed}".splitlines()[0]
        ) from failed

    def _run(self, order: str) -> list[tuple[list[Value], dict[Place, Value]]]:
        """Outputs and new buffers, and what the copy keeps, after each call of one."""
        network = self._network.copy()
        network.provide(self._needs)
        layers = dict(network.module.named_modules())
        before = {name: dict(vars(layer)) for name, layer in layers.items()}
        calls = []
        for which in order:
            walk = Walk()
            outputs = walk(self._call(network, which))
            values = [value for _, value in outputs]
            calls.append((values, self._attributes(network)))
        for name, layer in layers.items():
            now = vars(layer)
            if any(now.get(k) is not x for k, x in before[name].items()):
                self._kept.add(name)
        return calls

    def _attributes(self, network: Network) -> dict[Place, Value]:
        return attributes(network.module, self._known, self._hooks)

    def _call(self, network: Network, which: str) -> Any:
        with torch.enable_grad(), StopGradients():
            inputs = self._inputs[which]
            return network({}, self._buffers, inputs, copy(self._noise))

    def kept(self) -> frozenset[str]:
        """Names of layers that keep something of their last call.

        Raises:
            ValueError: what they keep, or give, depends on calls before it.
        """
        same = all(call[0] == of[0][0] for of in self._alike for call in of[1:])
        rounding = not same and self._rounds()
        places = self._before | {
            p: v for of in self._alike for c in of for p, v in c[1].items()
        }
        for place, value in places.items():
            before = self._before.get(place)
            one, other = ([call[1].get(place) for call in of] for of in self._alike)
            if {before} == {*one, *other}:
                continue
            tensor = value.kind == "tensor"
            # What layers keep is dropped after each call, what is elsewhere is not.
            dropped = tensor or place.layer is not None
            steady = len({*one}) == len({*other}) == 1 and (dropped or one == other)
            if not steady and not (rounding and tensor):
                raise _moves(place, value.kind)
            if place.layer is not None:
                self._kept.add(place.layer)
        if not same and not rounding:
            raise self._differs()
        return frozenset(self._kept)

    def _rounds(self) -> bool:
        """Whether first calls of two copies differ, and all calls by rounding alone.

        Some kernels add in whatever order their threads arrive.
        """
        results = []
        for order in ("a", "a", "ba"):
            network = self._network.copy()
            network.provide(self._needs)
            for which in order:
                done = self._call(network, which)
            walk = Walk()
            list(walk(done))
            results.append([x for x in walk.seen.values() if isinstance(x, Tensor)])
        first, second, after = results
        if all(map(torch.equal, first, second)):
            return False
        return all(
            _close(x, y)
            for x, y in (
                *zip(first, second, strict=True),
                *zip(first, after, strict=True),
            )
        )

    def _differs(self) -> ValueError:
        """The refusal of a module whose outputs differ, by its innermost layer."""
        records: list[dict[str, list[Value]]] = []
        for order in ("a", "ba"):
            network = self._network.copy()
            network.provide(self._needs)
            record: dict[str, list[Value]] = {}
            for name, layer in network.module.named_modules():
                layer.register_forward_hook(_recorder(record, name))
            for which in order:
                record.clear()
                self._call(network, which)
            records.append(record)
        one, other = records
        names = [name for name in one if one[name] != other.get(name)]
        culprit = self._network.module.get_submodule(names[0] if names else "")
        at = f" at {names[0]}" if names and names[0] else ""
        return ValueError(
            f"raymeta needs a pure function of tensors, but {type(culprit).__name__}"
            f"{at} gives other outputs when it is called again: keep what moves in "
            "buffers, and draw from torch's, Python's or numpy's global generator"
        )


def _close(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors differ by rounding at most."""
    if x.shape != y.shape or not (x.is_floating_point() or x.is_complex()):
        return x.shape == y.shape and torch.equal(x, y)
    error = (x - y).abs().nan_to_num()
    return bool((error <= 1000 * torch.finfo(x.dtype).eps * x.abs().max()).all())


def _recorder(record: dict[str, list[Value]], name: str) -> Any:
    def note(layer: nn.Module, inputs: Any, outputs: Any) -> None:
        record[name] = [value for _, value in Walk()(outputs)]

    return note


def _moves(place: Place, kind: str) -> ValueError:
    at = f" at {place.layer}" if place.layer else ""
    if place.layer is None and place.path.strip():
        at = f" ({place.path.strip()})"
    if kind == "generator":
        return ValueError(
            f"raymeta cannot seed the random generator {place.attribute}{at}, whose "
            "numbers differ when a step is done again: draw from torch's, Python's or "
            "numpy's global generator, which are seeded by (seed, step)"
        )
    return ValueError(
        f"raymeta needs a pure function of tensors, but {place.attribute}{at} moves "
        "from call to call, so that a step done again is another: register it as a "
        "buffer, which is part of the state, or count in a forward hook"
    )


#: So many rows are enough to see whether calls depend on one another.
_ROWS = 16


def _first(x: Any) -> Any:
    return x[:_ROWS] if isinstance(x, Tensor) and x.ndim > 0 else x


def _others(x: Any) -> Any:
    """Another batch of the same shape, in the same order: rows 0, 0, 1, 1 and so on."""
    if not isinstance(x, Tensor) or x.ndim == 0:
        return x
    return x[torch.arange(len(x), device=x.device) // 2]
