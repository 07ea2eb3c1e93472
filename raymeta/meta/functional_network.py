"""Functional networks: a module as a function of weights, in inner loops and after."""

from typing import Any

import torch
from torch import Tensor, nn

from raymeta._tree import in_transform, tree_map
from raymeta.autograd.stop_gradient import hooked
from raymeta.meta.task_rng import TaskNoise
from raymeta.modules.copies import copied, require_module, with_tensors
from raymeta.modules.counter_rng import Noise
from raymeta.modules.functional import Needs, Network
from raymeta.modules.module_problem import mode_copies
from raymeta.modules.overrides.batch_norm import Policy, tuned_norms
from raymeta.modules.overrides.gradient_hooks import gradient_hooks
from raymeta.modules.purity import find_needs
from raymeta.types import Tensors


class MetaNetwork:
    """A module whose weights come from outside; itself it is never changed.

    Inner steps call it in training mode, queries in evaluation mode. Randomness inside
    it (dropout) is that of a `TaskNoise`. Frozen parameters stay as they are now, on
    the weights' device.

    Args:
        module: any.
        batch_norm: a policy of batch norms; see `raymeta.module_problem`.

    Attributes:
        weights: its parameters that require grad, by name, as they are now.

    Raises:
        ValueError: no module that could run so; nothing to train; an unknown policy;
            running statistics that have no derivative. From the first call: it is no
            pure function of tensors.
    """

    def __init__(self, module: nn.Module, batch_norm: Policy) -> None:
        require_module(module, "meta-learning")
        trained = {k: p for k, p in module.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError(
                "meta-learning needs a module with parameters that require grad, but "
                f"got {type(module).__name__}: unfreeze some"
            )
        self.weights = {name: p.detach().clone() for name, p in trained.items()}
        self._hooks = gradient_hooks(module)
        device = next(iter(trained.values())).device
        self._policy = batch_norm
        seen, judged, written = mode_copies(module, batch_norm)
        self._frozen = {
            name: p.detach()
            for name, p in seen.named_parameters()
            if name not in trained
        }
        self._buffers = {name: b.detach() for name, b in seen.named_buffers()}
        self._module = module
        self._surveyed: set[Network] = set()
        self._training = Network(seen, written, device, None)
        self._evaluation = Network(judged, written, device, None)
        for network in (self._training, self._evaluation):
            network.provide(Needs(substitutes=True, generator=False))

    def buffers(self, theta: Tensors) -> Tensors:
        """Those that an inner loop starts with, on θ's device."""
        return _beside(self._buffers, theta)

    def own(self, theta: Tensors) -> Tensors:
        """The module's weights, on θ's device."""
        return _beside(self.weights, theta)

    def hooked(self, params: Tensors) -> Tensors:
        """Adapted weights whose inner gradients go through the module's own hooks."""
        both = self._hooks.keys() & params.keys()
        return params | {name: hooked(params[name], self._hooks[name]) for name in both}

    def train(
        self, weights: Tensors, buffers: Tensors, inputs: tuple, noise: TaskNoise
    ) -> tuple[Any, Tensors]:
        """Outputs in training mode, and the buffers as the module leaves them.

        Args:
            weights: tensors by name; others than its own are ignored.
            buffers: tensors by name.
            inputs: what the module is called with.
            noise: randomness inside it.
        """
        self._find_needs(self._training, inputs, noise)
        return self._training(self._all(weights), buffers, inputs, noise)

    def judge(
        self, weights: Tensors, buffers: Tensors, inputs: tuple, noise: TaskNoise
    ) -> Any:
        """Outputs in evaluation mode."""
        self._find_needs(self._evaluation, inputs, noise)
        return self._evaluation(self._all(weights), buffers, inputs, noise)[0]

    def module(self, weights: Tensors, buffers: Tensors) -> nn.Module:
        """A copy of the module on its own, which answers as `judge` does.

        Args:
            weights: tensors by name; others than its own are ignored.
            buffers: tensors by name.
        """
        plain = copied(self._module)
        tensors = tuned_norms(plain, self._policy, self._all(weights) | buffers)
        return with_tensors(plain, tensors)

    def _find_needs(self, network: Network, inputs: tuple, noise: TaskNoise) -> None:
        """Find out, by the first call with known values, what a network needs."""
        if network in self._surveyed or in_transform():
            return
        some = next(iter(self.weights.values()))

        def like_the_module(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            dtype = some.dtype if x.is_floating_point() else x.dtype
            return x.detach().to(some.device, dtype)

        needs = find_needs(
            network,
            self._module,
            self._buffers,
            tree_map(like_the_module, inputs),
            Noise(noise.seed, torch.zeros((), dtype=torch.int64, device=some.device)),
        )
        network.provide(needs._replace(substitutes=False))  # which it has
        self._surveyed.add(network)

    def _all(self, weights: Tensors) -> Tensors:
        given = {name: weights[name] for name in self.weights}
        return given | _beside(self._frozen, given)


def _beside(constants: Tensors, weights: Tensors) -> Tensors:
    """Constants on the weights' device."""
    device = next(iter(weights.values())).device
    return {name: x.to(device) for name, x in constants.items()}
