"""Numbers in fixed point that shrink and grow back, bit for bit."""

import math

import pytest
import torch
from torch import Tensor

from raymeta.hypergrad.fixed_precision import (
    InformationBuffer,
    factor,
    grow,
    shrink,
    to_units,
)

pytestmark = pytest.mark.usefixtures("float64")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(2)


def pushes(mu: Tensor, steps: int, count: int = 500) -> tuple[InformationBuffer, float]:
    """Shrink and kick random numbers, undo it all; the buffer's bits in between."""
    random = generator()
    kicks = torch.randn(steps, count, generator=random)
    v_0 = to_units(torch.randn(count, generator=random), 50)
    v, buffer = v_0, InformationBuffer(v_0)
    for kick in kicks:
        v = shrink(v, factor(mu), buffer) + to_units(kick, 50)
    bits = buffer.bits
    for kick in kicks.flip(0):
        v = grow(v - to_units(kick, 50), factor(mu), buffer)
    assert torch.equal(v, v_0)
    return buffer, bits


@pytest.mark.parametrize(
    "mu", [0.0, 1e-12, 0.01, 0.25, 0.3, 0.5, 1 / math.sqrt(2), 0.9, 0.98, 0.999, 1.0]
)
def test_multiplication_is_undone_bit_for_bit(mu):
    buffer, _ = pushes(torch.tensor(mu), 200)
    assert buffer.empty


def test_multiplication_by_a_factor_for_each_element():
    mu = torch.rand(500, generator=generator()).pow(2)
    mu[:3] = torch.tensor([0.0, 1.0, 1e-300])
    buffer, _ = pushes(mu, 200)
    assert buffer.empty


@pytest.mark.parametrize("mu", [0.5, 0.9, 0.98])
def test_takes_as_many_bits_as_information_theory_demands(mu):
    _, bits = pushes(torch.tensor(mu), 1000)
    assert bits / 1000 == pytest.approx(math.log2(1 / mu), rel=0.03)


@pytest.mark.parametrize("mu", [1e-9, 0.3, 0.5, 0.51, 0.9, 1.0])
def test_a_product_is_exact_to_a_digit(mu):
    c = torch.randint(-(2**51), 2**51, (10000,), generator=generator())
    buffer = InformationBuffer(c)
    error = shrink(c, factor(torch.tensor(mu)), buffer) - (c.double() * mu)
    assert float(error.abs().max()) <= 2**12


@pytest.mark.parametrize("mu", [0.5, 0.5 + 1e-15, 0.7, 0.98, 1.0])
def test_holds_up_to_the_end_of_its_range(mu):
    near = torch.arange(5000)
    edges = torch.tensor([2**62 - 1, 2**61, 2**53, 0, -(2**53), -(2**61), 5000 - 2**62])
    c = (edges[:, None] - near).flatten()
    buffer = InformationBuffer(c)
    small = shrink(c, factor(torch.tensor(mu)), buffer)
    assert torch.equal(grow(small, factor(torch.tensor(mu)), buffer), c)
    torch.testing.assert_close(small.double(), mu * c.double(), rtol=1e-15, atol=2**12)


def test_the_buffer_is_a_stack_of_digits_of_any_base():
    # Against Python's integers, which do not overflow.
    random, count = generator(), 50
    buffer, exact = InformationBuffer(torch.zeros(count)), [0] * count
    digits = []
    for _ in range(100):
        base = torch.randint(2**30, 2**31, (count,), generator=random)
        digit = (torch.rand(count, generator=random) * base).long()
        digits.append((digit, base))
        buffer.reserve(31)
        buffer.push(digit, base)
        pairs = zip(exact, base.tolist(), digit.tolist(), strict=True)
        exact = [i * b + d for i, b, d in pairs]
    length = sum(i.bit_length() for i in exact) / count
    assert buffer.bits == pytest.approx(length, rel=0.01)
    assert buffer.bytes == count * (8 + 4 * len(buffer.words))
    for digit, base in reversed(digits):
        assert torch.equal(buffer.pop(base), digit)
        buffer.release()
    assert buffer.empty


def test_a_factor_outside_zero_and_one_is_refused():
    with pytest.raises(ValueError, match=r"momentum in \[0, 1\], but got .* 1.5"):
        factor(torch.tensor([0.5, 1.5]))
