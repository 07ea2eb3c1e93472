"""Collectives in a training step: exact, or refused by name."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import Tensor

from raymeta import hypergrad, optim
from raymeta.compile.trace import Untraceable, trace
from raymeta.hypergrad import hypergradient
from raymeta.problem import descent

pytestmark = pytest.mark.usefixtures("float64", "group")


@pytest.fixture
def group(tmp_path):
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def in_place(x: Tensor) -> Tensor:
    y = x.clone()
    dist.all_reduce(y)
    return y


def new_tensor(x: Tensor) -> Tensor:
    return functional.wait_tensor(functional.all_reduce(x, "sum", dist.group.WORLD))


def summed(collective):
    """A sum over ranks with its derivatives, by a collective."""

    class Summed(torch.autograd.Function):
        generate_vmap_rule = False

        @staticmethod
        def forward(x):
            return collective(x)

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, g):
            return Summed.apply(g)

        @staticmethod
        def jvp(ctx, t):
            return Summed.apply(t)

        @staticmethod
        def vmap(info, dims, x):
            return Summed.apply(x), dims[0]

    return Summed.apply


def problem(sum_over_ranks):
    x = torch.linspace(-1, 1, 12).reshape(4, 3)
    return descent(
        init_params=lambda h: {"w": torch.ones(3)},
        inner_loss=lambda p, h, b: sum_over_ranks((x @ p["w"] - h["y"]).sin().mean()),
        outer_loss=lambda p, h: (p["w"] - 0.3).square().sum(),
        optimizer=lambda h: optim.sgd(h["lr"], momentum=0.5),
    )


H = {"lr": torch.tensor(0.1).double(), "y": torch.tensor(0.7).double()}
EAGER = [hypergrad.Reverse(3), hypergrad.Checkpointed(3), hypergrad.ShortTerm()]
TRACED = [
    hypergrad.Forward(3),
    hypergrad.Forward(3, compile=True),
    hypergrad.Reverse(3, compile=True),
    hypergrad.Checkpointed(3, compile=True),
    hypergrad.ShortTerm(compile=True),
    hypergrad.ES(3, 0.1, 2),
    hypergrad.PES(3, 0.1, 2),
]


@pytest.mark.parametrize("estimator", TRACED, ids=str)
def test_what_a_trace_does_not_see_is_refused_before_step_1(estimator) -> None:
    match = "^a traced, .* but c10d::allreduce_ writes into its own.*_functional_coll"
    with pytest.raises(ValueError, match=match):
        estimator.init(problem(summed(in_place)), H)


@pytest.mark.parametrize("estimator", EAGER, ids=str)
@pytest.mark.parametrize("collective", [in_place, new_tensor])
def test_in_a_function_of_their_own_they_are_exact(estimator, collective) -> None:
    found = hypergradient(problem(summed(collective)), H, estimator)
    truth = hypergradient(problem(lambda x: x), H, estimator)
    torch.testing.assert_close(found.grads, truth.grads, rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimator", [TRACED[0], TRACED[-2]], ids=str)
def test_functional_ones_are_traced(estimator) -> None:
    found = hypergradient(problem(summed(new_tensor)), H, estimator)
    truth = hypergradient(problem(lambda x: x), H, estimator)
    torch.testing.assert_close(found.grads, truth.grads, rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimator", EAGER, ids=str)
def test_one_that_autograd_leaves_out_is_refused(estimator) -> None:
    match = "^a step needs collectives with a derivative, but c10d::allreduce_ writes"
    with pytest.raises(ValueError, match=match):
        estimator.init(problem(in_place), H)


COLLECTIVES = {
    "all_reduce": in_place,
    "asynchronous": lambda x: (y := x.clone(), dist.all_reduce(y, async_op=True))[0],
    "broadcast": lambda x: (y := x.clone(), dist.broadcast(y, 0))[0],
    "all_gather": lambda x: (y := [x.clone()], dist.all_gather(y, x))[0][0],
    "reduce": lambda x: (y := x.clone(), dist.reduce(y, 0))[0],
}


@pytest.mark.parametrize("name", COLLECTIVES)
def test_a_trace_refuses_what_writes_in_place(name) -> None:
    collective = COLLECTIVES[name]
    with pytest.raises(ValueError, match=r"^a traced, .* but c10d::.* writes into it"):
        trace(lambda x: [collective(2 * x)], [torch.ones(3)])


def test_a_trace_refuses_functional_ones_that_write() -> None:
    def function(x: Tensor) -> list[Tensor]:
        name = dist.group.WORLD.group_name
        return [torch.ops._c10d_functional.all_reduce_(2 * x, "sum", name)]

    with pytest.raises(Untraceable, match="_c10d_functional::all_reduce_ writes into"):
        trace(function, [torch.ones(3)])
