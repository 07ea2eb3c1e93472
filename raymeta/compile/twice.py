"""Functions whose first and second derivatives run compiled."""

from collections.abc import Callable
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from raymeta.compile.dispatch import draws_random_numbers, will_be_used
from raymeta.compile.recurrence import Recurrence, chain, floating, pulled_back
from raymeta.compile.trace import Structure, flatten
from raymeta.errors import said


def compile_twice(function: Callable[..., Any]) -> Callable[..., Any]:
    r"""The same function, as machine code with its first and second derivatives.

    $f$, its pullback $(x, \alpha) \mapsto \alpha^\top \partial f / \partial x$ and the
    pullback of that are compiled each, the first time that they are asked for with
    arguments of such shapes: `torch.autograd.grad(..., create_graph=True)` and a
    backward pass through what it gives both work, as for gradient penalties,
    Hessian-vector products and MAML by hand. `torch.compile` refuses that ("does not
    currently support double backward").

    Args:
        function: pytrees of tensors -> a pytree of tensors; pure: what it reads beside
            its arguments stays as it was at the first call. Or a module: its parameters
            and buffers are those of each call.

    Returns:
        A function with the same arguments. The derivatives beyond the second are
        refused. A pullback runs f again: nothing is kept between.

    Raises:
        ValueError: no function. From the first call with arguments of a kind: it reads
            a tensor that requires grad beside its arguments; it draws random numbers,
            which would differ between f and its derivatives; a shape in it depends on
            values of tensors.

    Source: Griewank & Walther 2008, section 5.1: reverse over reverse.
    """
    if isinstance(function, nn.Module):
        return _Module(function)
    if not callable(function):
        raise ValueError(
            f"compile_twice needs a function or a module, but got {said(function)}"
        )
    return _Twice(function)


class _Twice:
    """A function of trees of tensors with derivatives of two orders."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._values = Recurrence(self._value, compiled=True)
        self._pullbacks: dict[Any, Recurrence] = {}
        self._checked: set[Structure] = set()
        self.results: dict[Structure, Structure] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensors, structure = flatten((args, kwargs))
        if structure not in self._checked:
            self._check(structure, tensors)
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            # Views of leaves: of these autograd says whether they are asked for.
            views = [
                x.view_as(x) if x.is_leaf and x.requires_grad else x for x in tensors
            ]
            results = _Values.apply(self, structure, *views)
            return self.results[structure].tree(results)
        with torch.no_grad():
            return chain((), (args, kwargs), [(self._values, ())])

    def value(self, structure: Structure, tensors: list[Tensor]) -> list[Tensor]:
        """f, flat."""
        found = chain((), structure.tree(tensors), [(self._values, ())])
        results, self.results[structure] = flatten(found)
        return results

    def pullback(
        self,
        structure: Structure,
        tensors: list[Tensor],
        alphas: list[Tensor],
        needed: tuple[bool, ...],
    ) -> list[Tensor]:
        """α ∂f/∂x of the tensors that are needed, with derivatives of its own."""
        key = structure, needed
        if key not in self._pullbacks:

            def pull(x: Any, c: Any, b: Any) -> list[Tensor]:
                return self._pull(structure, needed, *c)

            self._pullbacks[key] = Recurrence(pull, compiled=True)
        return chain((), (tensors, alphas), [(self._pullbacks[key], ())])

    def _value(self, x: Any, c: Any, b: Any) -> Any:
        args, kwargs = c
        return self._function(*args, **kwargs)

    def _pull(
        self,
        structure: Structure,
        needed: tuple[bool, ...],
        tensors: list[Tensor],
        alphas: list[Tensor],
    ) -> list[Tensor]:
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            at = [
                x.detach().requires_grad_() if n and not x.requires_grad else x
                for x, n in zip(tensors, needed, strict=True)
            ]
            # Copies, since f may write into its arguments.
            args, kwargs = structure.tree([x.clone() for x in at])
            results, kind = flatten(self._function(*args, **kwargs))
            ends, leaves = floating(results, kind), list(compress(at, needed))
            found = pulled_back(ends, alphas, leaves, create_graph=again)
            return [
                torch.zeros_like(x) if g is None else g
                for x, g in zip(leaves, found, strict=True)
            ]

    def _check(self, structure: Structure, tensors: list[Tensor]) -> None:
        copies = [x.detach().clone() for x in tensors]
        with torch.enable_grad(), draws_random_numbers() as drawn:
            args, kwargs = structure.tree(copies)
            results = flatten(self._function(*args, **kwargs))[0]
        if any(x.requires_grad for x in results):
            raise ValueError(
                "compile_twice needs a function of its arguments alone, but this one "
                "reads a tensor that requires grad beside them: give it as an argument,"
                " or give compile_twice the module"
            )
        if drawn:
            raise ValueError(
                "compile_twice needs a function that is the same each time, but this "
                f"one draws random numbers ({', '.join(sorted(drawn))}): give them as "
                "an argument, or call module.eval()"
            )
        self._checked.add(structure)


class _Values(torch.autograd.Function):
    """f, as a node of autograd's graph."""

    @staticmethod
    def forward(
        ctx: Any, twice: _Twice, structure: Structure, *tensors: Tensor
    ) -> tuple:
        ctx.twice, ctx.structure = twice, structure
        ctx.save_for_backward(*tensors)
        results = [x.detach() for x in twice.value(structure, list(tensors))]
        ctx.floating = twice.results[structure].differentiable()
        ctx.mark_non_differentiable(
            *(x for x, f in zip(results, ctx.floating, strict=True) if not f)
        )
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *alphas: Tensor) -> tuple:
        needed = tuple(
            wanted and will_be_used(node)
            for wanted, (node, _) in zip(
                ctx.needs_input_grad[2:], ctx.next_functions, strict=True
            )
        )
        tensors, own = list(ctx.saved_tensors), list(compress(alphas, ctx.floating))
        pulled = iter(ctx.twice.pullback(ctx.structure, tensors, own, needed))
        return None, None, *(next(pulled) if n else None for n in needed)


class _Module:
    """A module, whose parameters and buffers are arguments of what is compiled."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._modes: dict[Any, _Twice] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's outputs; buffers are as it leaves them."""
        module = self._module
        params, buffers = dict(module.named_parameters()), dict(module.named_buffers())
        modes = tuple(layer.training for layer in module.modules())
        if modes not in self._modes:
            self._modes[modes] = _Twice(self._run)
        # Copies: what derivatives are at stays, the buffers move on.
        copies = {name: x.clone() for name, x in buffers.items()}
        results, after = self._modes[modes](params, copies, args, kwargs)
        with torch.no_grad():
            for name, value in after.items():
                buffers[name].copy_(value)
        return results

    def _run(self, params: Any, buffers: Any, args: Any, kwargs: Any) -> Any:
        # Buffers have no derivatives, which batch norms insist on.
        buffers = {name: x.detach() for name, x in buffers.items()}
        results = functional_call(self._module, {**params, **buffers}, args, kwargs)
        return results, buffers
