"""A recurrence is a Python loop, in value and derivative, whatever its trees hold."""

import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from raymeta._tree import detach, is_differentiable, tree_leaves, tree_map
from raymeta.compile import announced, recurrence
from raymeta.compile.recurrence import Recurrence
from raymeta.compile.trace import Untraceable
from tests.support.memory import peak_bytes
from tests.support.recurrences import LAYOUTS, TOYS, Toy, normal, number, square

pytestmark = pytest.mark.usefixtures("float64")
each_toy = pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)


def loop(step: Callable[..., Any], x: Any, c: Any, batches: Iterable[Any]) -> Any:
    """What a recurrence is; a step gets copies, as it may write into them."""
    for b in batches:
        x = step(*(tree_map(_copy, part) for part in (x, c, b)))
    return x


def _copy(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def leaves(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if is_differentiable(leaf)]


def pulled(run: Callable[..., Any], toy: Toy) -> tuple[Any, list[Tensor | None]]:
    """Where it ends, and some cotangents of that pulled back to x and c."""
    x, c = detach((toy.x, toy.c))
    starts = [leaf.requires_grad_() for leaf in leaves((x, c))]
    end = run(x, c, toy.batches)
    ends = [(i, y) for i, y in enumerate(leaves(end)) if y.requires_grad]
    cotangents = [normal(*y.shape, seed=7 + i, dtype=y.dtype) for i, y in ends]
    ys = [y for _, y in ends]
    return end, list(torch.autograd.grad(ys, starts, cotangents, allow_unused=True))


def assert_same(ours: Any, truth: Any, rounding: float = 1e-12) -> None:
    pairs = zip(tree_leaves(ours), tree_leaves(truth), strict=True)
    for mine, own in pairs:
        if isinstance(own, Tensor):
            tolerance = 1e-5 if mine.dtype == torch.float32 else rounding
            torch.testing.assert_close(mine, own, rtol=tolerance, atol=tolerance)
        else:
            assert mine == own


def assert_is_the_loop(toy: Toy, *, compiled: bool) -> None:
    """Values and derivatives, and that the arguments stay what they were."""
    before = tree_map(_copy, toy)
    ours, grads = pulled(Recurrence(toy.step, compiled=compiled), toy)
    assert_same(toy[1:], before[1:], rounding=0.0)
    truth, true_grads = pulled(lambda *args: loop(toy.step, *args), toy)
    assert_same(ours, truth)
    count = len(leaves(toy.x))
    for i, (mine, own) in enumerate(zip(grads, true_grads, strict=True)):
        if own is None and i < count:  # a state without effect has a true 0
            assert mine is not None
            assert not mine.any()
        else:
            assert (mine is None) == (own is None)
            assert_same(mine, own)


@each_toy
def test_is_a_loop_in_value_and_derivative(toy):
    assert_is_the_loop(toy, compiled=False)


@each_toy
def test_is_a_loop_without_derivative(toy):
    before = tree_map(_copy, toy)
    steps = Recurrence(toy.step, compiled=False)
    ours, again = (steps(*toy[1:]) for _ in range(2))
    assert_same(toy[1:], before[1:], rounding=0.0)
    truth = loop(*toy)
    assert_same(ours, truth)
    assert_same(again, truth)
    assert not any(leaf.requires_grad for leaf in leaves(ours))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", ["tree", "results", "and back", "square"])
def test_the_layout_in_memory_does_not_matter(name, layout):
    assert_is_the_loop(laid_out(TOYS[name], layout), compiled=False)


def laid_out(toy: Toy, layout: Callable[[Tensor], Tensor]) -> Toy:
    return tree_map(lambda x: layout(x) if isinstance(x, Tensor) else x, toy)


# ------------------------------------------------------------------------------ traces


def counted(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """A list that grows by one with every trace."""
    traces: list[None] = []

    def trace(*args: Any) -> Any:
        traces.append(None)
        return original(*args)

    original = recurrence.trace
    monkeypatch.setattr(recurrence, "trace", trace)
    return traces


@pytest.mark.parametrize(
    ("name", "count"),
    [("square", 1), ("shapes", 2), ("and back", 2), ("tree", 2), ("no step", 0)],
)
def test_is_traced_once_for_each_structure(name, count, monkeypatch):
    traces, toy = counted(monkeypatch), TOYS[name]
    steps = Recurrence(toy.step, compiled=False)
    for times in (1, 1):
        steps(*toy[1:])
        assert len(traces) == times * count
    for _ in range(2):
        pulled(steps, toy)
        assert len(traces) == 2 * count
    moved = tree_map(lambda x: x + 1 if isinstance(x, Tensor) else x, toy)
    assert_is_the_loop(moved._replace(step=steps.function), compiled=False)
    assert_same(steps(*moved[1:]), loop(*moved))


def test_other_constants_and_kinds_are_other_programs(monkeypatch):
    traces, x = counted(monkeypatch), torch.ones(2)

    def step(x: Tensor, c: dict[str, Any], b: Any) -> Tensor:
        return x * c["k"] + (1 if c["k"] is True else 0)

    steps = Recurrence(step, compiled=False)
    constants: list[Any] = [2, 3, 2.0, 1, True, 1.0, torch.tensor(1), torch.tensor(1.0)]
    for k in constants + constants:
        assert_same(steps(x.int(), {"k": k}, [None]), step(x.int(), {"k": k}, None))
    assert len(traces) == len(constants)


def test_a_state_that_counts_in_python_is_traced_anew_at_each_step(monkeypatch):
    traces = counted(monkeypatch)
    toy = Toy(
        lambda x, c, b: (x[0] * c ** x[1], x[1] + 1), (number(2), 0), number(3), []
    )
    assert_is_the_loop(toy._replace(batches=[None] * 4), compiled=False)
    assert len(traces) == 4


@pytest.mark.parametrize("live", [False, True])
def test_a_fraction_that_is_read_is_refused_and_nothing_kept(live, monkeypatch):
    traces = counted(monkeypatch)
    x, c = torch.ones(2), torch.ones(2).requires_grad_(live)
    steps = Recurrence(lambda x, c, b: x * c * float(x.detach().sum()), compiled=False)
    for times in (1, 2):
        with pytest.raises(Untraceable, match="do not depend on the values"):
            steps(x, c, [torch.tensor(1.0)])
        assert len(traces) == times
    assert x.tolist() == c.tolist() == [1.0, 1.0]


def branching(x: Tensor, c: Tensor, b: Tensor) -> Tensor:
    y = x * c
    if b.any():  # of a batch
        y = y.sin()
    return -y if (y.sum() > 0).item() else y * (1 + int(b.sum()))  # of what is computed


def test_truth_values_and_integers_may_be_read(monkeypatch):
    traces = counted(monkeypatch)
    batches = [torch.tensor(b) for b in ([0, 0], [1, 0], [1, 0], [0, 0], [2, 0])]
    toy = Toy(branching, normal(2), normal(2, seed=1) - 1, batches)
    assert_is_the_loop(toy, compiled=False)
    assert 1 < len(traces) <= len(batches)
    truth = loop(*toy)
    assert_same(Recurrence(branching, compiled=False)(*toy[1:]), truth)


@pytest.mark.parametrize("read", [Tensor.tolist, Tensor.numpy, np.asarray])
def test_arrays_may_be_read(read):
    def split(x: Tensor, c: Tensor, b: Tensor) -> Tensor:
        first, second = read(b)
        return torch.cat([c * x[:first].sin(), x[first:] * int(second)])

    batches = [torch.tensor(b) for b in ([1, 2], [2, 1], [1, 2])]
    assert_is_the_loop(Toy(split, normal(3), normal(1), batches), compiled=False)
    steps = Recurrence(lambda x, c, b: x * float(sum(read(b))), compiled=False)
    with pytest.raises(Untraceable, match=r"keep changing \(\[0\.7\], …\)"):
        steps(torch.ones(1), None, [torch.tensor([i / 10]) for i in range(9)])


def test_a_number_that_keeps_changing_is_refused():
    steps = Recurrence(lambda x, c, b: x * int(b), compiled=False)
    few = [torch.tensor(i) for i in range(recurrence.MOST)]
    assert steps(torch.ones(1), None, [*few, *few]).item() == 0
    with pytest.raises(Untraceable, match=r"keep changing \(7, …\); write it without"):
        steps(torch.ones(1), None, [torch.tensor(99)])


def test_a_long_compilation_is_told(monkeypatch, capsys):
    monkeypatch.setattr(announced, "SHORT_S", 0.0)

    def slow(*args: Any) -> Any:
        time.sleep(0.2)
        return args[0].forward

    monkeypatch.setattr(recurrence, "build", slow)
    Recurrence(lambda x, c, b: x * c, compiled=True)(number(1), number(2), [None])
    assert capsys.readouterr().err == "compiling a training step … 0 s\n"


# ------------------------------------------------------------------------- derivatives


def sometimes(x: Tensor, c: dict[str, Tensor], b: Tensor) -> Tensor:
    """Only larger batches see c."""
    return x * b.sum() + (c["some"] if len(b) > 1 else 0) * x


@pytest.mark.parametrize("sizes", [(1, 1), (1, 2, 1), (2, 1)], ids=str)
def test_a_constant_has_a_gradient_where_a_step_depends_on_it(sizes):
    c = {"some": number(0.3), "never": number(0.4)}
    toy = Toy(sometimes, normal(2), c, [normal(n) for n in sizes])
    assert_is_the_loop(toy, compiled=False)
    _, (of_x, some, never) = pulled(Recurrence(sometimes, compiled=False), toy)
    assert of_x is not None
    assert (some is None) == (max(sizes) == 1)
    assert never is None


def test_a_result_that_depends_on_nothing_has_a_zero_gradient_in_the_state():
    steps = Recurrence(lambda x, c, b: (torch.ones(2), x[1] * c), compiled=False)
    x, c = torch.ones(2, requires_grad=True), torch.ones(2)
    y = steps((x, x), c, [None])
    (g,) = torch.autograd.grad(y[0].sum(), x)
    assert g.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("which", ["x", "c"])
def test_one_of_both_may_have_no_gradient(which):
    x, c = normal(3, 3).requires_grad_(which == "x"), normal(3, 3, seed=1)
    c.requires_grad_(which == "c")
    live = x if which == "x" else c
    steps, batches = Recurrence(square, compiled=False), [normal(3)] * 3
    ours, truth = steps(x, c, batches), loop(square, x, c, batches)
    (g,), (true_g,) = (torch.autograd.grad(y.sum(), live) for y in (ours, truth))
    torch.testing.assert_close(g, true_g, rtol=1e-12, atol=1e-14)


def test_can_be_pulled_back_twice():
    x, c = normal(3, 3), normal(3, 3, seed=1).requires_grad_()
    batches = [normal(3)] * 3
    ours = Recurrence(square, compiled=False)(x, c, batches)
    truth = loop(square, x, c, batches)
    for seed in (1, 2, 1):
        alpha = normal(3, 3, seed=seed)
        mine, own = (
            torch.autograd.grad(y, c, alpha, retain_graph=True)[0]
            for y in (ours, truth)
        )
        torch.testing.assert_close(mine, own, rtol=1e-12, atol=1e-14)


def test_a_second_derivative_is_refused():
    c = torch.ones(2, requires_grad=True)
    y = Recurrence(lambda x, c, b: x * c, compiled=False)(torch.ones(2), c, [None] * 2)
    with pytest.raises(ValueError, match=r"first derivatives only.*leave compile out"):
        torch.autograd.grad(y.sum(), c, create_graph=True)
    assert torch.autograd.grad(y.sum(), c)[0].tolist() == [2.0, 2.0]


def test_without_gradients_there_is_none():
    c = normal(3, 3).requires_grad_()
    steps = Recurrence(square, compiled=False)
    with torch.no_grad():
        y = steps(normal(3, 3), c, [normal(3)])
    assert not y.requires_grad
    assert not steps(normal(3, 3), c.detach(), [normal(3)]).requires_grad


def noisy(x: Tensor, c: Tensor, b: Any) -> Tensor:
    return x + c * torch.rand(3) * F.dropout(torch.ones_like(c), 0.5)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_derivative_sees_the_random_numbers_of_the_value(steps):
    recur, c = Recurrence(noisy, compiled=False), torch.ones(3, requires_grad=True)
    torch.manual_seed(0)
    draws = set()
    for _ in range(6):
        y = recur(torch.zeros(3), c, [None] * steps)
        (g,) = torch.autograd.grad(y.sum(), c)
        torch.testing.assert_close(g, y.detach(), rtol=1e-14, atol=1e-15)
        draws.add(tuple(g.tolist()))
    assert len(draws) > 4


# ------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("layout", [LAYOUTS["dense"], LAYOUTS["transposed"]])
def test_keeps_of_each_step_what_its_derivative_needs_and_that_once(layout):
    """Of tanh(c x), x alone, which is the result of the step before; and c once."""
    c = layout(normal(40, 40)).requires_grad_()

    def peak(run: Callable[..., Tensor], steps: int) -> int:
        return peak_bytes(lambda: run(torch.ones(40), c, [None] * steps))

    ours = Recurrence(lambda x, c, b: torch.tanh(c @ x), compiled=False)
    peak(ours, 2)  # traces
    assert peak(ours, 20) - peak(ours, 10) == 10 * 40 * 8
    assert peak(ours, 10) <= (2 * 40 * 40 + 14 * 40) * 8


@pytest.mark.parametrize("live", [False, True])
def test_holds_no_argument_after_a_call(live):
    x, c, b = (normal(3, 3, seed=t) for t in range(3))
    storages = [weakref.ref(z.untyped_storage()) for z in (x, c, b)]
    steps = Recurrence(square, compiled=False)
    y = steps(x, c.requires_grad_(live), [b[0], b[1]])
    if live:
        torch.autograd.grad(y.sum(), c)
    del x, b, c
    if live:
        assert any(storage() is not None for storage in storages)
        del y
    assert [storage() for storage in storages] == [None, None, None]


# ---------------------------------------------------------------------------- compiled


@pytest.mark.parametrize("name", ["square", "tree"])
def test_compiled_is_a_loop_too(name):
    toy = TOYS[name]
    settled = loop(*toy._replace(batches=toy.batches[:1]))  # one structure from now on
    toy = laid_out(toy._replace(x=settled), LAYOUTS["transposed"])
    assert_is_the_loop(toy, compiled=True)


def test_compiled_random_numbers_are_the_same_in_value_and_derivative():
    recur, c = Recurrence(noisy, compiled=True), torch.ones(3, requires_grad=True)
    torch.manual_seed(0)
    draws = set()
    for _ in range(6):
        y = recur(torch.zeros(3), c, [None] * 2)
        (g,) = torch.autograd.grad(y.sum(), c)
        torch.testing.assert_close(g, y.detach(), rtol=1e-14, atol=1e-15)
        draws.add(tuple(g.tolist()))
    assert len(draws) > 3
