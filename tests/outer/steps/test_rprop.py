"""Resilient propagation: steps by hand."""

import pytest
import torch
from torch import Tensor

from raymeta.outer import Rprop
from raymeta.outer.steps.rprop import RpropState

pytestmark = pytest.mark.usefixtures("float64")


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def after(rprop: Rprop, *gradients: Tensor) -> RpropState:
    """The state after these gradients."""
    state = rprop.init(gradients[0])
    for gradient in gradients:
        state = rprop.update(gradient, state)
    return state


def test_it_steps_against_the_signs():
    rprop = Rprop(0.3)
    step = rprop.step(after(rprop, vector(1e-9, -1e9, 0.0)))
    assert step.tolist() == [-0.3, 0.3, 0.0]


def test_lengths_by_hand():
    rprop = Rprop(1.0)
    state = after(rprop, vector(1.0, -1.0, 1.0), vector(2.0, 3.0, 0.0))
    # The first sign held, the second flipped, the third is none.
    assert rprop.step(state).tolist() == [-1.5, -0.5, 0.0]
    state = rprop.retreat(vector(-1.0, 5.0, 1.0), state)
    assert rprop.step(state).tolist() == pytest.approx([-1.5 * 0.35, -0.5, 0.0])
    state = rprop.retreat(vector(1.0, 1.0, 1.0), state)
    assert rprop.step(state).tolist() == pytest.approx([-1.5 * 0.35, -0.5, 0.0])


def test_its_growth_ends_at_the_longest_or_the_first_length():
    for first, longest in ((1.0, 1.5), (4.0, 4.0), (0.2, 1.5)):
        for tensors in ((), (slice(0, 1),)):
            rprop = Rprop(first, tensors)
            assert float(rprop.step(after(rprop, *[vector(1.0)] * 8))) == -longest


def test_it_moves_the_elements_of_a_tensor_together_and_alone():
    """D = (I, 1_S) with S the last three of four coordinates."""
    rprop = Rprop(1.0, (slice(1, 4),))
    state = after(rprop, vector(1.0, -5.0, 1.0, 1.0))
    # Together they fall (the sum is -3): a shift of +1/2; each alone 1/2 by its sign.
    assert rprop.step(state).tolist() == [-1.0, 1.0, 0.0, 0.0]
    state = rprop.update(vector(1.0, -1.0, -1.0, 1.0), state)
    # Held: first, shift, second, fourth (x 1.5); flipped: third (x 0.5).
    shift = 0.5 * 1.5
    step = rprop.step(state).tolist()
    assert step == [-1.5, shift + 0.75, shift + 0.25, shift - 0.75]


@pytest.mark.parametrize("tensors", [(), (slice(0, 4),)])
def test_it_does_not_see_the_scale_of_the_gradient(tensors):
    generator = torch.Generator().manual_seed(0)
    rprop = Rprop(0.4, tensors)
    one = other = rprop.init(vector(*[0.0] * 6))
    for scale in (1e-30, 1.0, 1e30):
        gradient = torch.randn(6, generator=generator)
        one = rprop.retreat(-gradient.roll(1), rprop.update(gradient, one))
        gradient = scale * gradient
        other = rprop.retreat(-gradient.roll(1), rprop.update(gradient, other))
        assert torch.equal(rprop.step(one), rprop.step(other))
