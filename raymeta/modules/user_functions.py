"""User functions: what they are called with, and what they must return."""

import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from raymeta._tree import cloned, in_transform, tree_leaves, tree_map
from raymeta.autograd.stop_gradient import inner_gradient
from raymeta.modules.collate import same
from raymeta.modules.counter_rng import Noise, mix
from raymeta.modules.overrides.internals import versions
from raymeta.modules.overrides.modes import Inspection, Substitutes
from raymeta.modules.rng_state import host_number, restored, seed_all, states

PACKAGE = Path(__file__).parents[1]


class _Needs(NamedTuple):
    """What a function must run within.

    Attributes:
        substitutes: rules for functions that cannot be used as they are.
        generators: the global generators, seeded by (seed, t). Such a step cannot be
            traced.
        copies: whether it gets copies of the arguments, into which it writes.
    """

    substitutes: bool
    generators: bool
    copies: bool


#: What a function needs that nothing is known of.
_UNKNOWN = _Needs(substitutes=True, generators=False, copies=True)


class UserFunction:
    """A user's function in training, as a pure function of tensors.

    What it draws at random is a function of (seed, t), as inside the module. At its
    first call it is looked at more closely, by calling it twice.

    Args:
        name: the argument of `module_problem`.
        function: the user's.
        takes: the names of its arguments.
        check: (name, value) raises unless the value is what it must be.
        module: whose parameters it must not read; None where it may.
        mixed: whether precision is mixed.
        trains: whether training descends its value, so that its first argument must
            have a gradient.

    Raises:
        ValueError: it is no function of that many arguments.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        takes: tuple[str, ...],
        check: Callable[[str, Any], None],
        *,
        module: nn.Module | None,
        mixed: bool = False,
        trains: bool = False,
    ) -> None:
        require_function(name, function, takes)
        self._name, self._function, self._takes = name, function, takes
        self._check, self._module, self._trains = check, module, trains
        self._rules = partial(Substitutes, mixed=mixed)
        self._needs: _Needs | None = None

    def __call__(self, noise: Noise, *arguments: Any) -> Any:
        """The function's value.

        Args:
            noise: randomness inside it.
            arguments: what it takes.
        """
        # A transform has no values to compare.
        if self._needs is None and not in_transform() and get_proxy_mode() is None:
            self._needs = self._find_needs(noise, arguments)
        needs = self._needs or _UNKNOWN
        value = self._within(needs, noise, arguments)
        self._check(self._name, value)
        return value

    def _within(self, needs: _Needs, noise: Noise, arguments: tuple) -> Any:
        """The function's value within what it needs."""
        if not any(needs):
            return self._function(*arguments)
        if needs.copies:
            arguments = cloned(arguments)
        with ExitStack() as within:
            if needs.generators:
                within.enter_context(self._seeded(noise))
            if needs.substitutes:
                within.enter_context(self._rules(noise))
            return self._function(*arguments)

    def _find_needs(self, noise: Noise, given: tuple) -> _Needs:
        """What the function needs, by two calls.

        Raises:
            ValueError: it fails, returns another value the second time, or reads what
                it must not; training cannot descend it.
        """
        device, rules, operators = (
            noise.t.device,
            self._rules(copy(noise)),
            Inspection(),
        )
        arguments = tree_map(_leaf, given)
        before_writes = versions(arguments)
        watch = _Watch(self._name, arguments[:2], self._module)
        shapes = shapes_of(self._takes, arguments)
        with inner_gradient() as inner:
            with told(f"{self._name} fails for {shapes}"), self._seeded(noise):
                before = states(device)
                with rules, watch, operators:
                    value = self._function(*map(_own_noise, arguments))
                drew = operators.random or states(device) != before
            writes = versions(arguments) != before_writes
            self._check(self._name, value)
            if self._trains:
                failing = told(f"{self._name} has no gradient for {shapes}")
                with failing, inner.being_taken():
                    _require_gradient(self._name, value, arguments[0])
        again = tree_map(_leaf, given)
        with self._seeded(noise), self._rules(copy(noise)):
            other = self._function(*map(_own_noise, again))
        if not _alike(value, other):
            raise ValueError(
                f"{self._name} must be a function of its arguments, but returns "
                "another value when it is called again with the same ones: let it keep "
                "no count of calls, and draw from torch's, Python's or numpy's global "
                "generators"
            )
        return _Needs(rules.used, drew, writes)

    @contextmanager
    def _seeded(self, noise: Noise) -> Iterator[None]:
        """The global generators seeded by (seed, t) and the name."""
        device, seed = noise.t.device, mix(noise.seed, host_number(noise.t))
        with restored(device):
            seed_all(mix(seed, sum(map(ord, self._name))), device)
            yield


def _own_noise(x: Any) -> Any:
    """What this inspection draws is not drawn from a step's noise."""
    return copy(x) if isinstance(x, Noise) else x


def _leaf(x: Any) -> Any:
    """The same values in a graph of their own, and free to be written into."""
    if not isinstance(x, Tensor):
        return x
    return x.detach().clone().requires_grad_(x.requires_grad).clone()


def _alike(one: Any, other: Any) -> bool:
    """Whether the tensors of two values are the same bit for bit."""
    parts = ([x for x in tree_leaves(v) if isinstance(x, Tensor)] for v in (one, other))
    return same(*parts)


def _require_gradient(name: str, value: Tensor, outputs: Any) -> None:
    """Raise ValueError where no gradient reaches what a loss is of."""
    ends = [
        x for x in tree_leaves(outputs) if isinstance(x, Tensor) and x.requires_grad
    ]
    if not ends:
        return
    grads: tuple[Tensor | None, ...] = ()
    if value.requires_grad:
        grads = torch.autograd.grad(value, ends, retain_graph=True, allow_unused=True)
    if all(g is None for g in grads):
        raise ValueError(
            f"{name} must have a gradient, but is cut from the graph of the outputs: "
            "leave out .detach(), .item(), torch.no_grad() and argmax"
        )


class _Watch(TorchFunctionMode):
    """Looks at what a function does with its arguments, and what else it reads.

    Args:
        name: what errors call the function.
        pair: its first two arguments: outputs and targets of a loss.
        module: whose parameters it must not read, nor others; None where it may.

    Raises:
        ValueError: within it, where outputs and targets are broadcast to a larger
            shape, or a parameter is read that nothing trains.
    """

    def __init__(self, name: str, pair: tuple, module: nn.Module | None) -> None:
        super().__init__()
        self._name, self._pair, self._module = name, pair, module

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call a function."""
        kwargs = kwargs or {}
        given = tree_leaves((args, kwargs))
        if self._module is not None and func not in _VALUES:
            for x in given:
                if isinstance(x, nn.Parameter) and x.requires_grad:
                    self._refuse(x, self._module)
        pair = [x for x in self._pair if isinstance(x, Tensor)]
        both = len(pair) == 2 and all(any(x is y for y in given) for x in pair)
        if both and func in _POINTWISE:
            self._require_alike(*pair)
        result = func(*args, **kwargs)
        if both and isinstance(result, Tensor) and result.shape == _broadcast(*pair):
            self._require_alike(*pair)
        return result

    def _require_alike(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise ValueError where each output meets targets of other examples."""
        whole = _broadcast(outputs, targets)
        if whole is None or 0 in (outputs.ndim, targets.ndim):
            return
        larger = whole.numel() > max(outputs.numel(), targets.numel())
        if larger or outputs.ndim != targets.ndim:
            raise ValueError(
                f"{self._name} needs targets that go with the outputs, but shapes "
                f"{tuple(targets.shape)} and {tuple(outputs.shape)} broadcast to "
                f"{tuple(whole)}: give targets the shape of the outputs, for example "
                "by unsqueeze(1)"
            )

    def _refuse(self, p: nn.Parameter, module: nn.Module) -> None:
        for key, own in module.named_parameters():
            if own is p:
                raise ValueError(
                    f"{self._name} must be a function of its arguments, but reads the "
                    f"module's own {key!r}, which stays as it is while a copy is "
                    "trained: use regularizer=lambda params, hparams: ..., or "
                    ".detach() where the first value is meant"
                )
        raise ValueError(
            f"{self._name} must be a function of its arguments, but reads a parameter "
            f"of shape {tuple(p.shape)} that requires grad and that nothing trains: "
            "make it a hyperparameter, or call requires_grad_(False) on it"
        )


def _broadcast(one: Tensor, other: Tensor) -> torch.Size | None:
    try:
        return torch.broadcast_shapes(one.shape, other.shape)
    except RuntimeError:  # they do not go together
        return None


#: Losses of each output and its target, which only warn.
_POINTWISE = {
    F.mse_loss,
    F.l1_loss,
    F.smooth_l1_loss,
    F.huber_loss,
    F.soft_margin_loss,
    F.poisson_nll_loss,
    F.hinge_embedding_loss,
    F.kl_div,
}
#: How a parameter's present value is taken, and what it is asked.
_VALUES = {Tensor.detach, torch.detach} | {
    getattr(Tensor, name).__get__
    for name in ("data", "requires_grad", "shape", "dtype", "device", "ndim")
}


def require_function(name: str, function: Any, takes: tuple[str, ...]) -> None:
    """Raise ValueError unless something can be called with some arguments."""
    wanted = f"({', '.join(takes)})"
    if isinstance(function, type):
        raise ValueError(
            f"{name} must be a function of {wanted}, but got the class "
            f"{function.__name__}: give {name}={function.__name__}()"
        )
    if not callable(function):
        raise ValueError(
            f"{name} must be a function of {wanted}, but got a "
            f"{type(function).__name__}: give a function, for example a lambda"
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # functions in C have none
        return
    try:
        signature.bind(*takes)
    except TypeError as error:
        raise ValueError(
            f"{name} is called with {wanted}, but takes {_one_line(signature)}: {error}"
        ) from error


def require_no_weights(name: str, function: Any) -> None:
    """Raise ValueError where a loss has weights of its own that nothing would train."""
    if isinstance(function, nn.Module):
        for key, p in function.named_parameters():
            if p.requires_grad:
                raise ValueError(
                    f"{name} has weights of its own, {key!r} among them, which nothing "
                    "would train: make them hyperparameters (train_loss with "
                    "torch.func.functional_call), or call requires_grad_(False) on it"
                )


@contextmanager
def told(what: str) -> Iterator[None]:
    """Failures inside told in one line, but for raymeta's own.

    Args:
        what: fails, and for what.
    """
    try:
        yield
    except Exception as error:
        if _is_own(error):
            raise
        first = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{what}: {type(error).__name__}: {first}") from error


def _is_own(error: Exception) -> bool:
    """Whether an error was raised by raymeta itself."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return isinstance(error, ValueError) and PACKAGE in Path(last.filename).parents


def shapes_of(names: tuple[str, ...], values: tuple) -> str:
    """What tensors there are among some arguments, in words."""
    seen = [
        f"{name} of shape {tuple(value.shape)} and {str(value.dtype)[6:]}"
        if isinstance(value, Tensor)
        else f"{name} of type {type(value).__name__}"
        for name, value in zip(names, values, strict=False)
    ]
    return ", ".join(seen)


def require_augmented(name: str, value: Any) -> None:
    """Raise ValueError unless something is ((inputs…), targets)."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], tuple):
        return
    seen = f"a {type(value).__name__}"
    if isinstance(value, tuple):
        seen = "(" + ", ".join(type(part).__name__ for part in value) + ")"
    raise ValueError(
        f"{name} must return ((inputs…), targets), but returned {seen}: return "
        "((x,), targets), a tuple also of one input"
    )


def require_number(name: str, value: Any) -> None:
    """Raise ValueError unless a metric is one real number."""
    if isinstance(value, Tensor):
        if value.numel() == 1 and not value.is_complex():
            return
        seen = f"a tensor of shape {tuple(value.shape)}"
    elif isinstance(value, int | float):
        return
    else:
        seen = f"a {type(value).__name__}"
    raise ValueError(
        f"{name} must return one number, but returned {seen}: take its mean, or give a "
        "metric a name for each of its numbers"
    )


def _one_line(signature: inspect.Signature) -> str:
    return " ".join(str(signature).split())
