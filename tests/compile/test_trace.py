"""Graphs of operators: what is taken down, what is refused, how one is cut in two."""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from raymeta.compile.inductor import build
from raymeta.compile.partition import VIEWS, split
from raymeta.compile.trace import Untraceable, flatten, trace

pytestmark = pytest.mark.usefixtures("float64")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def operators(graph: fx.GraphModule) -> list[Any]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


# ------------------------------------------------------------------------- structures


class Pair(NamedTuple):
    one: Any
    two: Any


class Other(NamedTuple):
    one: Any
    two: Any


def tree() -> dict[str, Any]:
    return {
        "pair": Pair(torch.ones(2), None),
        "name": "x",
        "list": [3, torch.zeros((), dtype=torch.int64), 0.5],
        "empty": (),
    }


def test_a_tree_comes_back_around_other_tensors():
    tensors, structure = flatten(tree())
    assert structure.count == len(tensors) == 2
    assert structure.differentiable() == [True, False]
    other = structure.tree([torch.full((2,), 7.0), torch.tensor(5)])
    assert other["pair"].one.tolist() == [7.0, 7.0]
    assert other["list"] == [3, torch.tensor(5), 0.5]
    assert (other["pair"].two, other["name"], other["empty"]) == (None, "x", ())
    assert isinstance(other["pair"], Pair)


def test_structures_are_equal_but_for_the_values_of_tensors():
    one, two = tree(), tree()
    two["pair"] = Pair(torch.zeros(4).view(2, 2)[:, 0], None)
    (_, first), (_, second) = flatten(one), flatten(two)
    assert first == second
    assert hash(first) == hash(second)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (torch.ones(2), torch.ones(3)),
        (torch.ones(2), torch.ones(2, 1)),
        (torch.ones(2), torch.ones(2, dtype=torch.float16)),
        (torch.ones(2), torch.ones(2, device="meta")),
        (torch.ones(()), 1.0),
        ("a", "b"),
        (1, 2),
        (1, 1.0),
        (1, True),
        (0.0, False),
        ((), None),
        ((1,), [1]),
        ({"a": 1}, {"b": 1}),
        (Pair(1, 2), Other(1, 2)),
        (Pair(1, (2, 3)), Pair((1, 2), 3)),
    ],
    ids=str,
)
def test_structures_differ_in_all_else(one, two):
    tensor = torch.ones(())
    assert flatten((one, tensor))[1] == flatten((one, tensor))[1]
    assert flatten((one, tensor))[1] != flatten((two, tensor))[1]


def test_a_structure_is_taken_over_where_it_is_the_same():
    like = flatten([torch.ones(2), torch.ones(())])[1]
    assert flatten([torch.zeros(2), torch.zeros(())], like)[1] is like
    for other in ([torch.ones(2)], [torch.ones(2), 1.0], (torch.ones(2), like)):
        assert flatten(other, like)[1] is not like
    constant = flatten([torch.ones(2), 3])[1]
    assert flatten([torch.ones(2), 4], constant)[1] != constant


# ----------------------------------------------------------------------------- tracing


def gradient(x: Tensor, c: Tensor) -> list[Tensor]:
    """A value and its derivatives, by both of torch's ways."""
    at = x.detach().requires_grad_()
    with torch.enable_grad():
        y = (torch.tanh(at * c).exp() @ torch.ones(3)).sum()
    slope = torch.func.grad(lambda c: (x * c).square().sum())(c)
    return [y.detach(), *torch.autograd.grad(y, at), slope]


def test_a_graph_gives_what_its_function_gives_derivatives_included():
    graph = trace(gradient, [normal(2, 3), normal(3)])
    x, c = normal(2, 3, seed=1), normal(3, seed=2)
    for ours, truth in zip(graph(x, c), gradient(x, c), strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-15, atol=1e-15)


def test_what_is_the_same_is_computed_once():
    def function(x: Tensor) -> list[Tensor]:
        y = x.exp() * x.exp().sum(0)
        return [y + x.exp().sum(0, keepdim=True), x.detach().exp() + x.sum(0)]

    names = [str(target) for target in operators(trace(function, [normal(2, 2)]))]
    assert sorted(names) == [
        "aten.add.Tensor",
        "aten.add.Tensor",
        "aten.exp.default",
        "aten.mul.Tensor",
        "aten.sum.dim_IntList",
        "aten.sum.dim_IntList",
        "aten.sum.dim_IntList",
    ]


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "rand": lambda x: torch.rand(3),
    "randn": lambda x: torch.randn(3),
    "rand_like": torch.rand_like,
    "bernoulli": lambda x: torch.bernoulli(torch.full_like(x, 0.5)),
    "normal_": lambda x: torch.empty_like(x).normal_(),
    "dropout": lambda x: F.dropout(x, 0.5),
    "randperm": lambda x: x[torch.randperm(3)],
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_two_draws_stay_two_and_are_new_at_each_call(draw):
    def function(x: Tensor) -> list[Tensor]:
        return [draw(x), draw(x)]

    x = torch.arange(1.0, 4.0)
    graph = trace(function, [x])
    torch.manual_seed(0)
    draws = [tuple(y.tolist()) for _ in range(8) for y in graph(x)]
    torch.manual_seed(0)
    assert draws == [tuple(y.tolist()) for _ in range(8) for y in function(x)]
    assert len(set(draws)) > 4


def test_the_dtype_of_what_is_made_inside_is_that_of_the_time_of_tracing():
    graph = trace(lambda x: [x + torch.rand(2), x * torch.ones(2)], [torch.ones(2)])
    made = [node.kwargs for node in graph.graph.nodes if not node.all_input_nodes]
    assert [k["dtype"] for k in made if "dtype" in k] == [torch.float64] * 2


def writes_into_its_argument(x: Tensor) -> list[Tensor]:
    x.add_(1.0)
    return [x, x * 2]


def writes_into_a_view_of_its_argument(x: Tensor) -> list[Tensor]:
    x.view(-1)[0] = 5.0
    return [x[0]]


def writes_into_what_it_made(x: Tensor) -> list[Tensor]:
    y = x * 3
    y[:, 0] += y[:, 1]
    y.t().mul_(x.t())
    y.masked_fill_(y > 1, 0.5)
    return [y]


@pytest.mark.parametrize(
    "function",
    [
        writes_into_its_argument,
        writes_into_a_view_of_its_argument,
        writes_into_what_it_made,
    ],
)
def test_a_graph_writes_into_nothing(function):
    graph = trace(function, [normal(2, 2)])
    x, before = normal(2, 2, seed=1), normal(2, 2, seed=1)
    for ours, truth in zip(graph(x), function(before.clone()), strict=True):
        assert torch.equal(ours, truth)
    assert torch.equal(x, before)
    assert not any(target._schema.is_mutable for target in operators(graph))


UNTRACEABLE: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "item": (lambda x: x * x.sum().item(), r"write it without .item\(\), int\(tensor"),
    "int": (lambda x: x * int(x.sum()), "torch says: .*value out of a tracing tensor"),
    "if": (lambda x: x if x.sum() > 0 else -x, "do not depend on the values"),
    "while": (lambda x: [x := x / 2 for _ in iter(lambda: x.sum() > 1, False)], "item"),
    "one_hot": (lambda x: x @ F.one_hot(x.abs().long(), 4).double(), "F.one_hot or"),
    "mask": (
        lambda x: x[x > 0].sum() / x[x > 0].shape[0],
        r"index.Tensor gives as many elements as they say; write it without x\[mask\]",
    ),
    "nonzero": (lambda x: x.nonzero().double(), "aten.nonzero.default gives as many"),
    "masked_select": (lambda x: x.masked_select(x > 0), "aten.masked_select.default"),
    "unique": (lambda x: x.unique(), "unique2.default"),
    "repeat": (lambda x: x.repeat_interleave((x > 0).long()), "repeat_interleave"),
}


@pytest.mark.parametrize(("function", "message"), UNTRACEABLE.values(), ids=UNTRACEABLE)
def test_what_depends_on_values_is_refused(function, message):
    message = f"^compile=True needs a step whose .*{message}.*or leave compile out$"
    with pytest.raises(Untraceable, match=message):
        trace(lambda x: [function(x)], [torch.tensor([1.0, -2.0, 3.0])])


def test_masks_and_indices_of_fixed_shape_are_not():
    def function(x: Tensor, i: Tensor) -> list[Tensor]:
        y = x.clone()
        y[x > 0] = 2.0
        y[i, 0] += x[torch.arange(2), i]
        return [torch.where(x < 0, y, x), y.gather(1, i[:, None])]

    graph = trace(function, [normal(2, 2), torch.tensor([0, 1])])
    x, i = normal(2, 2, seed=3), torch.tensor([1, 0])
    assert (x > 0).sum() != (normal(2, 2) > 0).sum()
    for ours, truth in zip(graph(x, i), function(x, i), strict=True):
        assert torch.equal(ours, truth)


def test_a_mistake_of_the_function_comes_up_as_it_is():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        trace(lambda x: [x @ x], [torch.ones(2, 3)])
    assert not isinstance(caught.value, Untraceable)


# --------------------------------------------------------------------------- splitting


class Joint(NamedTuple):
    """Values and pullback of a function, as one graph.

    Attributes:
        graph: (inputs…, cotangents…) -> (outputs…, pulled back…).
        inputs: how many.
        outputs: how many.
        example: inputs and cotangents.
    """

    graph: fx.GraphModule
    inputs: int
    outputs: int
    example: list[Tensor]


def joint(function: Callable[..., list[Tensor]], *inputs: Tensor) -> Joint:
    cotangents = [normal(*y.shape, seed=9) for y in function(*inputs)]

    def both(*flat: Tensor) -> list[Tensor]:
        at = [x.detach().requires_grad_() for x in flat[: len(inputs)]]
        ends = function(*at)
        pulled = torch.autograd.grad(
            ends, at, flat[len(inputs) :], materialize_grads=True
        )
        return [y.detach() for y in (*ends, *pulled)]

    example = [*inputs, *cotangents]
    return Joint(trace(both, example), len(inputs), len(cotangents), example)


def layers(x: Tensor, w: Tensor) -> list[Tensor]:
    y = torch.tanh(x @ w)
    return [y @ w.t(), (y.square() + x).sum(1)]


def permuted(x: Tensor, w: Tensor) -> list[Tensor]:
    y = (x.t() * w).exp()
    return [y.expand(2, 3, 3).sum(0) * y, y.reshape(-1)[2:5] @ x, x]


def noisy(x: Tensor, w: Tensor) -> list[Tensor]:
    noise = torch.rand(3, 3)
    return [x * noise + F.dropout(w, 0.5) * torch.rand_like(x), w * noise]


def constant(x: Tensor, w: Tensor) -> list[Tensor]:
    return [x * torch.arange(3.0) + torch.full((3, 3), 2.0) * x * x * w]


FUNCTIONS = [layers, permuted, noisy, constant]
each_function = pytest.mark.parametrize("function", FUNCTIONS)


@each_function
def test_the_halves_are_the_whole(function):
    whole, inputs, outputs, example = joint(function, normal(3, 3), normal(3, 3))
    first, second = split(whole, inputs, outputs)
    torch.manual_seed(0)
    truth = whole(*example)
    torch.manual_seed(0)
    values = first(*example[:inputs])
    pulled = second(*values[outputs:], *example[inputs:])
    for ours, whole in zip([*values[:outputs], *pulled], truth, strict=True):
        assert torch.equal(ours, whole)


@each_function
def test_no_tensor_is_kept_twice_nor_where_it_is_free(function):
    whole, inputs, outputs, example = joint(function, normal(3, 3), normal(3, 3))
    first, _ = split(whole, inputs, outputs)
    saved = first(*example[:inputs])[outputs:]
    assert len({x.untyped_storage().data_ptr() for x in saved}) == len(saved)
    (end,) = (node for node in first.graph.nodes if node.op == "output")
    for node in end.args[0][outputs:]:
        drawn = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        made = node.op != "placeholder" and not node.all_input_nodes
        assert not made or drawn
        assert node.target not in VIEWS


@each_function
def test_each_half_holds_only_what_it_needs(function):
    whole, inputs, outputs, _ = joint(function, normal(3, 3), normal(3, 3))
    for half in split(whole, inputs, outputs):
        (end,) = (node for node in half.graph.nodes if node.op == "output")
        needed, stack = set(), list(end.all_input_nodes)
        while stack:
            node = stack.pop()
            needed.add(node)
            stack.extend(node.all_input_nodes)
        idle = set(half.graph.nodes) - needed - {end}
        assert all(node.op == "placeholder" for node in idle)


def test_a_graph_remembers_nothing_of_the_call_that_it_was_traced_in():
    x = torch.ones(2)
    storage = weakref.ref(x.untyped_storage())
    kernel = build(trace(lambda x: [x.exp()], [x]), [x], compiled=False)
    del x
    assert storage() is None
    assert kernel(torch.zeros(2))[0].tolist() == [1.0, 1.0]
