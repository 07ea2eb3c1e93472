"""Recurrences whose trees hold all that a tree can, and where they start."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


def normal(*shape: int, seed: int = 0, dtype: Any = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


class Toy(NamedTuple):
    """A recurrence and where it starts.

    Attributes:
        step: (x, c, b) -> x.
        x: where it starts.
        c: what stays.
        batches: one b for each step.
    """

    step: Callable[[Any, Any, Any], Any]
    x: Any
    c: Any
    batches: list[Any]


def momentum(x: Any, c: Any, b: Any) -> Any:
    """A state with a counter and a constant, whose memory is there from step 1 on."""
    k = x["k"] + 1
    g = torch.tanh(x["w"] @ c["a"].T) @ c["a"] + b * c["power"] + x["w"] / k
    memory = 0.5 * x.get("memory", torch.zeros_like(g)) + g
    w = x["w"] - c["lr"] * memory
    return {"w": w, "memory": memory, "k": k, "name": x["name"]}


def swap(x: Any, c: Any, b: Any) -> Any:
    """Results that are arguments, or twice the same, or transposed."""
    y = (x[0].t() * c).sin()
    return (x[1], y, y, y.t(), c, (x[0] + y)[:, 0].expand(3, 3))


def rows(x: Tensor, c: Tensor, b: Tensor) -> Tensor:
    return x - 0.1 * (b * (x * c)).square().mean(0)


def in_place(x: Any, c: Any, b: Any) -> Any:
    """It writes into all of its arguments, and into what it made of them."""
    x["n"] += 1
    x["w"].mul_(c[0]).add_(b)
    b.zero_()
    c[1].add_(1.0)
    y = x["w"] * c[1]
    y[0] = y[1] * 2
    y.view(-1)[1:].exp_()
    return {"w": x["w"], "y": y, "n": x["n"]}


def rotate(x: Tensor, c: Tensor, b: Tensor) -> Tensor:
    return x * c.conj() / c.abs() + 1j * (b * x).real.tanh()


def square(x: Tensor, c: Tensor, b: Tensor) -> Tensor:
    return torch.tanh(x.t() @ c + b).t()


def ladder(x: Tensor, c: Tensor, b: Tensor) -> Tensor:
    return 2.0 * torch.tanh(x * c) - b / 2


TOYS = {
    "tree": Toy(
        momentum,
        {"w": normal(2, 3), "k": torch.tensor(0), "name": "net"},
        {"a": normal(4, 3, seed=1), "power": 2, "lr": number(0.1)},
        [normal(2, 3, seed=t) for t in range(4)],
    ),
    "results": Toy(swap, (normal(3, 3), normal(3, 3, seed=1)), normal(3), [None] * 3),
    "shapes": Toy(rows, normal(3), normal(3, seed=1), [normal(n, 3) for n in (4, 2)]),
    "and back": Toy(
        rows, normal(3), normal(3, seed=1), [normal(n, 3) for n in (4, 2, 4, 4, 2)]
    ),
    "in-place": Toy(
        in_place,
        {"w": normal(2, 3), "n": torch.tensor(3)},
        (number(0.7), normal(2, 3, seed=1)),
        [normal(2, 3, seed=t) for t in range(3)],
    ),
    "float32": Toy(
        ladder,
        normal(4, dtype=torch.float32),
        normal(4, seed=1, dtype=torch.float32),
        [normal(4, seed=t, dtype=torch.float32) for t in range(3)],
    ),
    "promoted": Toy(ladder, normal(4, dtype=torch.float32), normal(4), [normal(4)] * 3),
    "complex": Toy(
        rotate,
        normal(3, dtype=torch.complex128),
        normal(3, seed=1, dtype=torch.complex128),
        [normal(3, seed=t) for t in range(3)],
    ),
    "empty": Toy(ladder, normal(0, 3), normal(3), [normal(0, 3)] * 2),
    "square": Toy(square, normal(3, 3), normal(3, 3, seed=1), [normal(3)] * 3),
    "no step": Toy(square, normal(3, 3), normal(3, 3), []),
}
#: Layouts of the same numbers in memory.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda x: x.clone(),
    "transposed": lambda x: x.mT.contiguous().mT if x.ndim > 1 else x.clone(),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[:1].expand_as(x) if x.ndim and len(x) else x.clone(),
}
