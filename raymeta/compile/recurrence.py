"""Recurrences x ← f(x, c, b) and their derivatives, as graphs of operators."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from itertools import compress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raymeta.compile.announced import announced
from raymeta.compile.inductor import build
from raymeta.compile.partition import split
from raymeta.compile.reads import Reads, hold, reading
from raymeta.compile.trace import (
    Kernel,
    Structure,
    autocasts,
    flatten,
    too_many_values,
    trace,
    without_autocast,
)

Flat = Sequence[Tensor]
#: Programs for the values that a step reads from tensors, at most.
MOST = 8
#: The structures of x, c and b.
Key = tuple[Structure, Structure, Structure]


class Program(NamedTuple):
    """A step for arguments of given structures, on flat lists of tensors.

    Attributes:
        forward: (x…, c…, b…) -> (f(x, c, b)…, read…, saved…).
        backward: (saved…, α of f…, g…) -> (α of x…, g + α ∂f/∂c…); floating-point
            tensors only, and of c only what f depends on. None in a program without
            derivatives, which saves nothing.
        result: the structure of f(x, c, b).
        depends: for each floating-point tensor of c, whether f depends on it.
        read: the numbers that f read from tensors; where others would be read, f is
            another program.
    """

    forward: Kernel
    backward: Kernel | None
    result: Structure
    depends: list[bool]
    read: list[Tensor]

    @property
    def saved_from(self) -> int:
        """Where, in what `forward` gives, begins what is saved."""
        return self.result.count + len(self.read)

    def fits(self, given: Flat) -> bool:
        """Whether what `forward` gave was read as it was traced."""
        return not self.read or hold(
            given[self.result.count : self.saved_from], self.read
        )


class Recurrence:
    r"""$x_{t+1} = f(x_t, c, b_t)$, traced once for each structure of its arguments.

    Graphs are laid out for contiguous tensors, which all that goes in and out is made.
    f must be pure: what it reads besides its arguments stays as it was when it was
    traced. Integers, truth values and arrays that it reads from tensors, as a check of
    its own does, are looked at in every step; at others it is traced once more. Where x
    or c requires a gradient the result has one, of first order.

    Args:
        function: f.
        compiled: translate the graphs to machine code (by inductor, whose cache on disk
            serves later processes); else they are replayed, operator by operator.
    """

    def __init__(self, function: Callable[..., Any], *, compiled: bool) -> None:
        self.function, self._compiled = function, compiled
        self._programs: dict[tuple[bool, Any, Key], list[Program]] = {}

    def __call__(self, x: Any, c: Any, batches: Iterable[Any]) -> Any:
        """The x after one step for each b.

        Raises:
            Untraceable: which operators f runs depends on values of tensors.
        """
        return chain(x, c, ((self, b) for b in batches))

    def run(
        self, key: Key, inputs: Flat, differentiable: bool
    ) -> tuple[Program, Sequence[Tensor]]:
        """The program for arguments of these structures and values, and what it gives.

        Raises:
            Untraceable: see `__call__`.
        """
        known = self._programs.setdefault((differentiable, autocasts(), key), [])
        for program in known:
            given = program.forward(*inputs)
            if program.fits(given):
                return program, given
        if len(known) == MOST:
            raise too_many_values(known[-1].read)
        program = self._traced(key, inputs, differentiable)
        given = program.forward(*inputs)
        if not program.fits(given):
            raise too_many_values(program.read)
        known.append(program)
        return program, given

    def _traced(self, key: Key, inputs: Flat, differentiable: bool) -> Program:
        dense = torch.contiguous_format
        inputs = [z.detach().clone(memory_format=dense) for z in inputs]
        with (
            announced("compiling a training step") if self._compiled else nullcontext()
        ):
            program = (self._paired if differentiable else self._plain)(key, inputs)
        if autocasts():
            return program._replace(forward=_outside_autocast(program.forward))
        return program

    def _plain(self, key: Key, inputs: Flat) -> Program:
        results: list[tuple[Structure, list[Tensor]]] = []

        def forward(*flat: Tensor) -> list[Tensor]:
            with torch.no_grad(), reading() as read:
                tensors, structure = flatten(self.function(*_trees(key, flat)))
            results.append((structure, read.values))
            return _dense([*tensors, *read.tensors])

        graph = trace(forward, inputs)
        kernel = build(graph, inputs, self._compiled)
        structure, values = results[0]
        return Program(kernel, None, structure, [], values)

    def _paired(self, key: Key, inputs: Flat) -> Program:
        moving = [m for part in key[:2] for m in part.differentiable()]
        x_count = sum(key[0].differentiable())

        def pull(
            at: Flat, cotangents: Flat | None
        ) -> tuple[list[Tensor], Structure, list[Tensor | None], Reads]:
            """f(x, c, b), the cotangents' (ones') pullback to x and c, and reads."""
            at = [z.detach() for z in at]
            leaves = [z.requires_grad_() for z in compress(at, moving)]
            with torch.enable_grad(), reading() as read:
                # Copies, since f may write into its arguments, but not into leaves.
                copies = [z.clone() for z in at]
                ends, result = flatten(self.function(*_trees(key, copies)))
            moved = floating(ends, result)
            if cotangents is None:
                cotangents = _dense(map(torch.ones_like, moved))
            return ends, result, pulled_back(moved, cotangents, leaves), read

        ends, result, pulled, read = pull(inputs, None)
        depends = [p is not None for p in pulled[x_count:]]
        alphas = _dense(torch.ones_like(z.detach()) for z in floating(ends, result))
        cs = list(compress(inputs, moving))[x_count:]
        g = [torch.zeros_like(z) for z in compress(cs, depends)]

        def joint(*flat: Tensor) -> list[Tensor]:
            at, rest = flat[: len(inputs)], flat[len(inputs) :]
            ends, _, pulled, read = pull(at, rest[: len(alphas)])
            xs = list(compress(at, moving))[:x_count]
            alpha = [
                torch.zeros_like(z) if p is None else p
                for z, p in zip(xs, pulled, strict=False)
            ]
            found = [p for p in pulled[x_count:] if p is not None]
            gathered = [g + p for g, p in zip(rest[len(alphas) :], found, strict=True)]
            outputs = (*ends, *read.tensors, *alpha, *gathered)
            return _dense([z.detach() for z in outputs])

        graph = trace(joint, [*inputs, *alphas, *g])
        outputs = len(ends) + len(read.values)
        first, second = split(graph, len(inputs), outputs)
        forward = build(first, inputs, self._compiled)
        with torch.no_grad():
            saved = list(forward(*inputs))[outputs:]
        backward = build(second, [*saved, *alphas, *g], self._compiled)
        return Program(forward, backward, result, depends, read.values)


def chain(x: Any, c: Any, legs: Iterable[tuple[Recurrence, Any]]) -> Any:
    r"""The x after one step of each leg: $x_{t+1} = f_t(x_t, c, b_t)$.

    Args:
        x: where it starts.
        c: what all steps share.
        legs: (a recurrence, of which f_t is; b_t) in order.

    Raises:
        Untraceable: which operators an f runs depends on values of tensors.
    """
    xs, structure = flatten(x)
    cs, constants = flatten(c)
    walk = _Walk(structure, constants, legs)
    if torch.is_grad_enabled() and any(z.requires_grad for z in (*xs, *cs)):
        results = _Differentiable.apply(walk, len(xs), *xs, *cs)
    else:
        with torch.no_grad():
            # What stays as it is comes back itself.
            xs, cs = [z.detach() for z in xs], [z.detach() for z in cs]
            results = walk.forward(xs, cs, differentiable=False)
    return walk.structure.tree(results)


class _Walk:
    """One pass through a chain, forwards and, if asked, backwards.

    Attributes:
        structure: that of x, where the walk stands.
        depends: for each floating-point tensor of c, whether x depends on it.
    """

    def __init__(
        self,
        structure: Structure,
        constants: Structure,
        legs: Iterable[tuple[Recurrence, Any]],
    ) -> None:
        self.structure, self._constants, self._legs = structure, constants, legs
        self._done: list[tuple[Program, Flat]] = []
        self.depends = [False] * sum(constants.differentiable())

    def forward(self, xs: Flat, cs: Flat, differentiable: bool) -> Flat:
        """The x at the end."""
        xs, cs = _dense(xs), _dense(cs)
        last: Any = self  # no b at all
        before: tuple[Any, ...] = (None, None, None)
        program: Program | None = None
        for recurrence, b in self._legs:
            if b is not last:
                flat, batch = flatten(b, like=before[2])
                bs, last = _dense(flat), b
            inputs = [*xs, *cs, *bs]
            at = (recurrence, self.structure, batch)
            alike = at[0] is before[0] and at[1] is before[1] and at[2] is before[2]
            if (
                program is None
                or not alike
                or not program.fits(both := program.forward(*inputs))
            ):
                key = (self.structure, self._constants, batch)
                program, both = recurrence.run(key, inputs, differentiable)
                before = at
                if differentiable:
                    self.depends = list(map(max, self.depends, program.depends))
            self.structure = program.result
            xs = both[: self.structure.count]
            if differentiable:
                self._done.append((program, both[program.saved_from :]))
        return xs

    def backward(self, alphas: Flat, g: Flat) -> tuple[Flat, Flat]:
        """α at the start, and what α ∂f/∂c adds up to."""
        alphas = _dense(alphas)
        with without_autocast():
            return self._backward(alphas, g)

    def _backward(self, alphas: Flat, g: Flat) -> tuple[Flat, Flat]:
        for program, saved in reversed(self._done):
            assert program.backward is not None
            own = list(compress(g, program.depends))
            pulled = list(program.backward(*saved, *alphas, *own))
            alphas, own = (
                pulled[: len(pulled) - len(own)],
                pulled[len(pulled) - len(own) :],
            )
            moved = iter(own)
            g = [
                next(moved) if d else z for z, d in zip(g, program.depends, strict=True)
            ]
        return alphas, g


class _Differentiable(torch.autograd.Function):
    """A walk as one node of autograd's graph."""

    @staticmethod
    def forward(ctx: Any, walk: _Walk, x_count: int, *inputs: Tensor) -> tuple:
        ctx.walk, ctx.x_count = walk, x_count
        ctx.like = [z.detach() for z in inputs]
        ends = walk.forward(inputs[:x_count], inputs[x_count:], differentiable=True)
        # Fresh ones: what is saved must not hold the very tensors that hold this node.
        ends = [z.detach() for z in ends]
        ctx.floating = walk.structure.differentiable()
        ctx.mark_non_differentiable(
            *(z for z, f in zip(ends, ctx.floating, strict=True) if not f)
        )
        return tuple(ends)

    @staticmethod
    def backward(ctx: Any, *alphas: Tensor) -> tuple:
        if torch.is_grad_enabled():
            raise ValueError(
                "a compiled or traced step has first derivatives only (a function of "
                "compile_twice has second ones), but a graph beyond was asked for "
                "(create_graph=True): leave compile out, or use engine='higher'"
            )
        walk, like = ctx.walk, ctx.like
        floating = [z.is_floating_point() or z.is_complex() for z in like]
        cs = list(compress(like[ctx.x_count :], floating[ctx.x_count :]))
        g = [torch.zeros(z.shape, dtype=z.dtype, device=z.device) for z in cs]
        moving, sums = walk.backward(list(compress(alphas, ctx.floating)), g)
        known = [z if d else None for z, d in zip(sums, walk.depends, strict=True)]
        pulled = iter([*moving, *known])
        return None, None, *(next(pulled) if f else None for f in floating)


def _outside_autocast(kernel: Kernel) -> Kernel:
    def run(*flat: Tensor) -> Sequence[Tensor]:
        with without_autocast():
            return kernel(*flat)

    return run


def _trees(key: Key, flat: Flat) -> list[Any]:
    rest, trees = list(flat), []
    for structure in key:
        trees.append(structure.tree(rest[: structure.count]))
        rest = rest[structure.count :]
    return trees


def _dense(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [z.contiguous() for z in tensors]


def floating(tensors: Flat, structure: Structure) -> list[Tensor]:
    """Those of a pytree's tensors that are floating-point or complex."""
    return list(compress(tensors, structure.differentiable()))


def pulled_back(
    ends: Flat, alphas: Flat, leaves: Flat, create_graph: bool = False
) -> list[Tensor | None]:
    """α ∂(ends)/∂(leaves); None where nothing depends."""
    pairs = [(z, a) for z, a in zip(ends, alphas, strict=True) if z.requires_grad]
    if not pairs:
        return [None] * len(leaves)
    live, cotangents = map(list, zip(*pairs, strict=True))
    return list(
        torch.autograd.grad(
            live, leaves, cotangents, create_graph=create_graph, allow_unused=True
        )
    )
