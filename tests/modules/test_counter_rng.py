"""Counter-based random numbers: the published generator, and statistics."""

import math

import pytest
import torch

from raymeta.modules import Noise

GOLDEN, WORD = 0x9E3779B97F4A7C15, 1 << 64
MANY = 1 << 18


def splitmix64(state: int, count: int) -> list[int]:
    """The first outputs, as in Vigna's C."""
    outputs = []
    for _ in range(count):
        state = (state + GOLDEN) % WORD
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % WORD
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
        outputs.append(z ^ (z >> 31))
    return outputs


def noise(seed: int = 3, t: int = 7) -> Noise:
    return Noise(seed, torch.tensor(t))


def test_the_reference_is_splitmix64():
    assert splitmix64(1234567, 3) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@pytest.mark.parametrize(("seed", "t"), [(0, 0), (1, 5), (-9, 2**24 - 1), (2**70, -1)])
def test_numbers_are_those_of_splitmix64(seed, t):
    z = seed % WORD  # its finalizer, of the seed
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    start = (z ^ (z >> 31)) + (t << 40) * GOLDEN
    numbers = [z % WORD for z in noise(seed, t).bits(6).tolist()]
    assert numbers == splitmix64(start % WORD, 6)


def test_draws_of_a_step_follow_one_another():
    one, many = noise(), noise()
    parts = torch.cat([many.bits(3), many.bits(5)])
    assert torch.equal(one.bits(8), parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_numbers(dtype):
    u = noise().uniform((8, MANY // 8), dtype)
    assert u.dtype == dtype
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    cells = torch.histc(u.double(), 256, 0, 1)
    expected = MANY / 256
    chi_square = float(((cells - expected) ** 2 / expected).sum())
    # 255 degrees of freedom: mean 255, standard deviation 22.6.
    assert abs(chi_square - 255) < 4 * 22.6


def test_normal_numbers():
    z = noise().normal((MANY,), torch.float64)
    error = 4 / math.sqrt(MANY)
    assert abs(float(z.mean())) < error
    assert abs(float(z.var()) - 1) < error * math.sqrt(2)
    assert abs(float((z**3).mean())) < error * math.sqrt(15)
    assert abs(float((z**4).mean()) - 3) < error * math.sqrt(96)


@pytest.mark.parametrize("p", [0.0, 0.001, 0.3, 0.999, 1.0])
def test_bernoulli_numbers(p):
    drawn = noise().bernoulli((MANY,), p)
    assert drawn.dtype == torch.bool
    error = 4 * math.sqrt(p * (1 - p) / MANY)
    assert abs(float(drawn.double().mean()) - p) <= error


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (noise(3, 7), noise(3, 8)),
        (noise(3, 7), noise(4, 7)),
        (noise(3, 7), noise(-3, 7)),
        (noise(0, 1), noise(1, 0)),
    ],
    ids=["steps", "seeds", "signs", "exchanged"],
)
def test_steps_and_seeds_are_uncorrelated(one, other):
    a, b = (n.uniform((MANY,), torch.float64) - 0.5 for n in (one, other))
    for lag in (0, 1, 2, 1000):
        correlation = 12 * float((a[: MANY - lag] * b[lag:]).mean())
        assert abs(correlation) < 4.5 / math.sqrt(MANY)


def test_neighbours_and_draws_are_uncorrelated():
    n = noise()
    a, b = n.uniform((MANY,)).double() - 0.5, n.uniform((MANY,)).double() - 0.5
    bits = noise().bernoulli((MANY,), 0.5).double() * 2 - 1
    products = [12 * a * b, 12 * a[1:] * a[:-1], bits[1:] * bits[:-1]]
    for product in products:
        assert abs(float(product.mean())) < 4.5 / math.sqrt(MANY)


def test_steps_can_be_vmapped():
    def draw(t):
        n = Noise(3, t)
        return n.bernoulli((5,), 0.4), n.normal((2, 3))

    together = torch.func.vmap(draw)(torch.arange(4))
    for t in range(4):
        for all_of_them, alone in zip(together, draw(torch.tensor(t)), strict=True):
            assert torch.equal(all_of_them[t], alone)


def test_compiled_numbers_are_the_same():
    """Products of int64 wrap around in machine code, too."""

    def draw(t: torch.Tensor) -> tuple[torch.Tensor, ...]:
        noise = Noise(3, t)
        two = noise.uniform((6, 3), torch.float64), noise.uniform((6, 3), torch.float32)
        return *two, noise.bernoulli((6, 6), 0.3)

    t = torch.tensor(2)
    for one, other in zip(torch.compile(draw)(t), draw(t), strict=True):
        assert torch.equal(one, other)
