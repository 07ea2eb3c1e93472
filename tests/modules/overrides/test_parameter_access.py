"""Modules that do more with their parameters than to read them by name."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.support.module_cases import problem_of

pytestmark = pytest.mark.usefixtures("float64")


class Net(nn.Linear):
    """A layer that does something before it is called.

    Args:
        prepare: called with the layer as it is made.
        act: called with the layer and its inputs; gives the outputs.
    """

    def __init__(
        self,
        act: Callable[["Net", Tensor], Tensor],
        prepare: Callable[["Net"], None] = lambda net: None,
    ) -> None:
        super().__init__(5, 3)
        self.act = act
        prepare(self)

    def plain(self, x: Tensor) -> Tensor:
        return super().forward(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self, x)


def clamps(net: Net, x: Tensor) -> Tensor:
    net.weight.data.clamp_(-100, 100)  # no value changes, as yet
    return net.plain(x)


def normalizes(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        net.weight.div_(net.weight.norm())
    return net.plain(x)


def replaces(net: Net, x: Tensor) -> Tensor:
    net.weight = nn.Parameter(net.weight * 0.9)
    return net.plain(x)


def averages(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        net.teacher.lerp_(net.weight, 0.1)
    return net.plain(x)


def with_teacher(net: Net) -> None:
    net.teacher = nn.Parameter(net.weight.detach().clone(), requires_grad=False)


def makes_one(net: Net, x: Tensor) -> Tensor:
    if "gain" not in net._parameters:
        net.gain = nn.Parameter(torch.ones(3))
    return net.plain(x) * net.gain


def reads_a_list(net: Net, x: Tensor) -> Tensor:
    return x @ net.weights[0].T


def reads_a_closure(net: Net, x: Tensor) -> Tensor:
    return net.through(x)


def close_over(net: Net) -> None:
    net.through = lambda x: x @ net.weight.T


def reads_a_view(net: Net, x: Tensor) -> Tensor:
    return net.plain(x) + x @ net.view.T


def with_view(net: Net) -> None:
    net.view = net.weight.data


def rounds(net: Net, x: Tensor) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(net.plain(x), 0.1, 0, 0, 255)


def share_memory(net: Net) -> None:
    net.second = nn.Parameter(net.weight.detach()[1:])


def share_with_buffer(net: Net) -> None:
    net.register_buffer("old", net.weight.detach())


WRITES = r"writes into its parameter {} when it is called: compute"
READS = "cannot replace weight of Net, which is read by another way than its place in"
SHARES = "needs tensors with memory of their own, but .*weight.* share theirs: make"
REFUSED = {
    "clamped": (clamps, None, r"clamp_\(\) on a detached tensor, which changes"),
    "normalized": (normalizes, None, WRITES.format("weight")),
    "replaced": (replaces, None, WRITES.format("weight")),
    "a teacher": (
        averages,
        with_teacher,
        WRITES.format("teacher"),
    ),
    "made late": (makes_one, None, "Net makes gain when it is called: call it once on"),
    "a list": (
        reads_a_list,
        lambda net: vars(net).update(weights=[net.weight]),
        READS,
    ),
    "a closure": (reads_a_closure, close_over, READS),
    "a view": (reads_a_view, with_view, READS),
    "straight through": (
        rounds,
        None,
        "aten::fake_quantize.*, whose gradient is not the derivative of what it gives",
    ),
    "shared memory": (Net.plain, share_memory, SHARES),
    "memory shared with a buffer": (Net.plain, share_with_buffer, SHARES),
}


@pytest.mark.parametrize(("act", "prepare", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses(act, prepare, message):
    module = Net(act) if prepare is None else Net(act, prepare)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    with pytest.raises(ValueError, match=message) as refusal:
        problem_of(module)
    assert "\n" not in str(refusal.value)
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_views_that_nothing_reads_are_let_be():
    problem_of(Net(Net.plain, with_view))
    problem_of(nn.utils.spectral_norm(nn.Linear(5, 3)))
