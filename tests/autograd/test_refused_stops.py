"""Numbers that leave the graph of a training step."""

import math

import pytest
import torch

from raymeta.hypergrad import (
    Reverse,
)
from tests.support.stopping_modules import (
    MARKS,
    STEPS,
    Net,
    StopsLater,
    central_difference,
    make,
    of_lr,
    problem_of,
)

pytestmark = MARKS


class Logged(Net):
    """A number for a log, and one that decides which way to go."""

    def features(self, z):
        self.seen = z.mean().item()
        return z * 2 if z.mean().item() > 5 else z


def test_numbers_that_no_result_depends_on_may_leave_the_graph():
    problem = problem_of(make(Logged))
    right = central_difference(problem)
    assert of_lr(problem, Reverse(STEPS)) == pytest.approx(right, rel=1e-6)


def test_numbers_that_leave_the_graph_of_a_run_that_diverged_are_none_of_it():
    class Diverged(Logged):
        """From its second step on."""

        def forward(self, x):
            y, weights = super().forward(x), next(iter(self.parameters()))
            return y * torch.where((weights == self.start).all(), 1.0, math.nan)

    class Start(Diverged):
        def __init__(self) -> None:
            super().__init__()
            self.start = next(iter(self.parameters())).detach().clone()

    assert math.isnan(of_lr(problem_of(make(Start)), Reverse(STEPS)))


class ByItem(Net):
    def features(self, z):
        return z / (1 + z.square().mean().item())


class ByFloat(Net):
    def features(self, z):
        return z * float(z.square().mean())


class ByNumpy(Net):
    def features(self, z):
        return z * torch.from_numpy(z.square().mean(0).detach().numpy())


class ByList(Net):
    def features(self, z):
        return z * torch.tensor(z.square().mean(0).tolist())


class ByItemLater(StopsLater):
    def features(self, z):
        z = super().features(z)
        return z / (1 + z.square().mean().item()) if self.calls > 2 else z


class ByItemInHook(Net):
    def features(self, z):
        if z.requires_grad:
            z.register_hook(lambda g: g / (1 + g.norm().item()))
        return z


def test_random_numbers_in_hooks_are_refused():
    class Noisy(Net):
        def features(self, z):
            if z.requires_grad:
                z.register_hook(lambda g: g + torch.randn_like(g))
            return z

    with pytest.raises(ValueError, match="draw them in forward"):
        of_lr(problem_of(make(Noisy)), Reverse(STEPS))


def test_numbers_that_a_hooks_gradient_depends_on_are_refused():
    with pytest.raises(ValueError, match="a hook on gradients to compute with tensors"):
        of_lr(problem_of(make(ByItemInHook)), Reverse(STEPS))


@pytest.mark.parametrize("module", [ByItem, ByFloat, ByNumpy, ByList, ByItemLater])
def test_numbers_that_a_result_depends_on_are_refused(module):
    problem = problem_of(make(module))
    with pytest.raises(ValueError, match=f"of {module.__name__} to compute with tens"):
        of_lr(problem, Reverse(STEPS))


class DetachedInPlace(Net):
    def features(self, z):
        return z * (z * 2).detach_()


class Initialized(Net):
    """Weights that the first batch decides."""

    def features(self, z):
        self.b.weight.data.copy_(self.b.weight / z.detach().std())
        return z


class Transformed(Net):
    def features(self, z):
        return torch.func.grad(lambda z: (z * z.detach()).sum())(z)


class Backward(Net):
    def features(self, z):
        z.sum().backward(retain_graph=True)
        return z


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (DetachedInPlace, r"detach_\(\)"),
        (Backward, r"backward\(\)"),
        (Initialized, r"copy_\(\) on a detached tensor"),
        (Transformed, r"torch\.func transform of the forward pass"),
    ],
)
def test_what_leaves_the_graph_for_good_is_refused(module, named):
    with pytest.raises(ValueError, match=named):
        problem_of(make(module))


def test_hooks_of_layers_and_after_accumulation_are_refused():
    net = Net()
    net.a.register_full_backward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"backward hooks .* 'a' has some"):
        problem_of(net)
    net = Net()
    net.a.weight.register_post_accumulate_grad_hook(lambda p: None)
    with pytest.raises(ValueError, match=r"'a\.weight' has a post-accumulate"):
        problem_of(net)
