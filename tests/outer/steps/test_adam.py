"""Adam with clipped gradients: steps by hand, and those of `torch.optim`."""

import math

import pytest
import torch
from torch import Tensor

from raymeta.outer import ClippedAdam
from raymeta.outer.steps.adam import AdamState

pytestmark = pytest.mark.usefixtures("float64")


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def after(adam: ClippedAdam, x: Tensor, *gradients: Tensor) -> tuple[Tensor, AdamState]:
    """X and the state after steps by these gradients."""
    state = adam.init(x)
    for gradient in gradients:
        x, state = adam.update(gradient, state, x)
    return x, state


@pytest.mark.parametrize("lr", [0.2, 1e-3])
def test_it_equals_torchs_where_nothing_is_clipped(lr):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, generator=generator)
    theirs = torch.nn.Parameter(x.clone())
    reference = torch.optim.Adam([theirs], lr=lr, betas=(0.9, 0.99), eps=0.0)
    adam = ClippedAdam(lr)
    state = adam.init(x)
    for _ in range(50):
        gradient = torch.randn(4, generator=generator).clamp(-3, 3) + 0.1
        x, state = adam.update(gradient, state, x)
        theirs.grad = gradient.clone()
        reference.step()
        torch.testing.assert_close(x, theirs.detach(), rtol=1e-12, atol=1e-14)


def test_it_clips_to_ten_times_the_running_scale():
    """By hand: v̂ = 4 after g = 2, so that 1e9 counts as 20, and -1e9 as -20."""
    for huge, clipped in ((1e9, 20.0), (-1e9, -20.0), (19.0, 19.0)):
        x, state = after(ClippedAdam(1.0), vector(0.0), vector(2.0))
        assert x.tolist() == pytest.approx([-1.0], rel=1e-14)
        x, _ = ClippedAdam(1.0).update(vector(huge), state, x)
        m = 0.9 * (0.1 * 2.0) + 0.1 * clipped
        v = 0.99 * (0.01 * 4.0) + 0.01 * clipped**2
        moved = (m / (1 - 0.9**2)) / math.sqrt(v / (1 - 0.99**2))
        assert x.tolist() == pytest.approx([-1.0 - moved], rel=1e-13)


def test_it_recovers_from_a_burst_of_divergence():
    burst = [vector(1e200 if i in (40, 41, 42) else 1.0) for i in range(100)]
    before, _ = after(ClippedAdam(0.1), vector(0.0), *burst)
    x, _ = after(ClippedAdam(0.1), vector(0.0), *burst, *[vector(-1.0)] * 80)
    assert float(x) > float(before) + 1.0


def test_it_does_not_move_without_a_gradient():
    adam, steady = ClippedAdam(0.5), vector(0.0, 3.0)
    x, _ = after(adam, vector(1.0, 1.0), steady)
    assert x.tolist() == pytest.approx([1.0, 0.5])
    x, state = after(adam, vector(1.0, 1.0), steady, steady)
    assert float(x[0]) == 1.0
    # Its first gradient is not clipped to a scale of zero.
    x, _ = adam.update(vector(1e-3, 3.0), state, x)
    m_hat = 0.1 * 1e-3 / (1 - 0.9**3)
    v_hat = 0.01 * 1e-6 / (1 - 0.99**3)
    assert float(x[0]) == pytest.approx(1.0 - 0.5 * m_hat / math.sqrt(v_hat), rel=1e-12)


def test_its_rate_may_change_between_steps():
    adam = ClippedAdam(0.1)
    x, state = after(adam, vector(0.0), vector(1.0))
    slow, fast = (
        float(adam.update(vector(0.4), state._replace(lr=lr), x)[0] - x)
        for lr in (0.1, 0.3)
    )
    assert fast == pytest.approx(3 * slow, rel=1e-12)


def test_its_rate_grows_by_the_agreement_of_gradients_to_the_longest():
    adam = ClippedAdam(0.1, longest=0.2)
    x, state = after(adam, vector(0.0, 0.0), vector(1.0, 2.0))
    assert state.lr == 0.1
    for gradient in (vector(3.0, -1.0), vector(-1.0, -2.0), vector(9.0, 0.0)):
        _, grown = adam.update(gradient, state, x)
        cosine = max(float(grown.agreement), 0.0)
        assert grown.lr == pytest.approx(min(0.1 * math.exp(cosine / 2), 0.2))
    _, state = after(adam, x, *[vector(1.0, 2.0)] * 9)
    assert state.lr == 0.2


def test_rows_of_x_are_descents_by_themselves():
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(6, 5, 7, generator=generator) ** 9
    together, state = after(ClippedAdam(), torch.zeros(5, 7), *gradients)
    for row in range(5):
        alone, own = after(ClippedAdam(), torch.zeros(7), *gradients[:, row])
        assert torch.equal(together[row], alone)
        torch.testing.assert_close(state.agreement[row], own.agreement)


def test_its_agreement_is_the_cosine_of_a_gradient_with_those_before():
    """By hand, for two coordinates after g = (1, 2) and then g' = (3, -1)."""
    adam = ClippedAdam(0.1)
    x, state = after(adam, vector(0.0, 0.0), vector(1.0, 2.0))
    assert state.agreement == 0.0
    _, state = adam.update(vector(3.0, -1.0), state, x)
    before, latest = (0.1 * 1.0, 0.1 * 2.0), (3.0, -1.0)
    v = [0.99 * 0.01 * a**2 + 0.01 * b**2 for a, b in ((1.0, 3.0), (2.0, -1.0))]
    dot = sum(a * b / c for a, b, c in zip(before, latest, v, strict=True))
    norms = [
        math.sqrt(sum(a**2 / c for a, c in zip(u, v, strict=True)))
        for u in (before, latest)
    ]
    assert float(state.agreement) == pytest.approx(dot / math.prod(norms), rel=1e-12)
